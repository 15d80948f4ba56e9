"""An exported folder: whole, checked, and described by its manifest."""

import hashlib
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

from tocsr.deploy import export, graphs
from tocsr.deploy.configs import ExportConfig
from tocsr.deploy.graphs import Engine, open_graph
from tocsr.deploy.upscaler import Upscaler
from tocsr.errors import ExitCode, TocsrError
from tocsr.files import read_json
from tocsr.models.cost import pipeline_costs
from tocsr.models.sr import OneStepGenerator

needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="needs openvino")


@pytest.fixture(scope="module")
def finished(finished_runs):
    return finished_runs / "distill" / "model"


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export.run(ExportConfig(model=finished, output=folder, openvino=bool(find_spec("openvino"))))
    return folder


@pytest.fixture(scope="module")
def manifest(exported):
    return read_json(exported / "manifest.json")


def test_the_manifest_has_size_and_checksum_of_every_other_file(exported, manifest):
    files = [path for path in exported.rglob("*") if path.is_file()]
    found = {
        path.relative_to(exported).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
        if path.name != "manifest.json"
    }
    assert manifest["files"] == found
    assert "upscaler.onnx" in found


def test_the_graph_takes_what_the_manifest_says(exported, manifest):
    inputs, side = manifest["inputs"], 3 * manifest["inputs"]["image"]["multiple"]
    sizes = {"H": side, "W": side, "H / 8": side // 8, "W / 8": side // 8}
    rng = np.random.default_rng(0)
    tensors = [
        rng.uniform(-1, 1, [sizes.get(size, size) for size in inputs[name]["shape"]]).astype(
            inputs[name]["dtype"]
        )
        for name in ("image", "noise")
    ]
    result = open_graph(exported, "onnx", "cpu", 1)(*tensors)
    output = manifest["outputs"]["upscaled"]
    assert list(result.shape) == [sizes.get(size, size) for size in output["shape"]]
    assert str(result.dtype) == output["dtype"]
    assert output["range"] == [-1, 1]
    assert np.abs(result).max() <= 1


def test_the_manifest_counts_what_profile_counts(finished, manifest):
    model = OneStepGenerator.from_pretrained(finished)
    costs = pipeline_costs(model.vae, model.unet, manifest["cost"]["pixels"])
    assert manifest["cost"]["params"] == {cost.part: cost.params for cost in costs}
    assert manifest["cost"]["macs"] == {cost.part: cost.macs for cost in costs}


def test_every_engine_was_compared_with_pytorch(manifest):
    engines = {"onnx"} | ({"openvino"} if find_spec("openvino") else set())
    differences = manifest["largest_difference_to_torch"]
    assert differences.keys() == engines
    assert max(differences.values()) <= export.MAX_DIFFERENCE


@needs_openvino
def test_openvinos_own_form_gives_what_the_onnx_graph_gives(exported, photo, monkeypatch):
    from tocsr.deploy import openvino_session

    # Left to itself OpenVINO computes in bfloat16 on a processor that has it: 2 levels apart
    exact = partial(openvino_session.OpenVinoGraph, float32=True)
    monkeypatch.setattr(openvino_session, "OpenVinoGraph", exact)
    own, other = (Upscaler.from_pretrained(exported, 1, name) for name in ("openvino", "onnx"))
    difference = own(photo).astype(int) - other(photo)
    assert np.abs(difference).max() <= 1  # a quarter of a level may cross a rounding


@needs_openvino
def test_openvino_reads_its_own_form_where_the_folder_holds_it(exported, monkeypatch):
    from tocsr.deploy import openvino_session

    read: list[str] = []
    monkeypatch.setattr(openvino_session, "OpenVinoGraph", lambda path, _: read.append(path.name))
    openvino_session.open_graph(exported, "cpu", 1)
    assert read == ["upscaler.xml"]


def test_a_graph_that_disagrees_with_pytorch_is_not_kept(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(TocsrError, match="the ONNX graph must agree with PyTorch") as raised:
        export.run(ExportConfig(model=finished, output=tmp_path / "model"))
    assert raised.value.code is ExitCode.MODEL
    assert not list(tmp_path.rglob("*.onnx*"))
    assert not (tmp_path / "model" / "manifest.json").exists()


@needs_openvino
def test_a_form_of_openvino_that_disagrees_is_not_kept(exported, monkeypatch):
    before = {path: path.read_bytes() for path in exported.iterdir() if path.is_file()}
    monkeypatch.setattr(export, "largest_difference", lambda *_: 1.0)
    generator = OneStepGenerator.from_pretrained(exported)
    with pytest.raises(TocsrError, match="the OpenVINO graph must agree with PyTorch"):
        export.write_openvino(generator, exported)
    assert {path: path.read_bytes() for path in exported.iterdir() if path.is_file()} == before


def test_an_export_to_openvino_without_it_ends_before_the_work(finished, tmp_path, monkeypatch):
    absent = Engine("openvino_session", "no_such_package", "openvino")
    monkeypatch.setitem(graphs.ENGINES, "openvino", absent)
    with pytest.raises(TocsrError, match="no_such_package, which is not installed"):
        export.run(ExportConfig(model=finished, output=tmp_path / "model", openvino=True))
    assert not (tmp_path / "model").exists()
