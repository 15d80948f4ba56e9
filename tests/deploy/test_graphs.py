"""The engines: one result, and one clear line where one is not there or fails."""

import subprocess
import sys
import threading
from importlib.util import find_spec

import numpy as np
import pytest
from onnx import helper

from tocsr.deploy import graphs
from tocsr.deploy.configs import UpscaleConfig
from tocsr.deploy.graphs import Engine, open_graph
from tocsr.deploy.model_facts import ModelFacts
from tocsr.deploy.upscale import run
from tocsr.deploy.upscaler import Upscaler
from tocsr.errors import ExitCode, TocsrError
from tocsr.preset_files import SHIPPED_MODEL

# a quarter of one 8-bit level of the range [-1, 1]
QUARTER_LEVEL = 2 / 255 / 4
ON_THE_GRAPH = [
    "onnx",
    pytest.param(
        "openvino", marks=pytest.mark.skipif(not find_spec("openvino"), reason="needs openvino")
    ),
]


@pytest.fixture(scope="module")
def inputs():
    facts = ModelFacts.read(SHIPPED_MODEL / "upscaler.json")
    height, width = 3 * facts.pixel_multiple, 2 * facts.pixel_multiple
    rng = np.random.default_rng(0)
    latent = (height // facts.latent_stride, width // facts.latent_stride)
    image = rng.uniform(-1, 1, (1, 3, height, width)).astype(np.float32)
    noise = rng.standard_normal((1, facts.latent_channels, *latent)).astype(np.float32)
    return image, noise


@pytest.mark.skipif(not find_spec("openvino"), reason="needs openvino")
def test_openvino_gives_what_onnx_runtime_gives(inputs):
    from tocsr.deploy.openvino_session import OpenVinoGraph

    one = open_graph(SHIPPED_MODEL, "onnx", "cpu", 1)
    other = OpenVinoGraph(SHIPPED_MODEL / graphs.GRAPH, 1, float32=True)
    assert other.engine.endswith("f32")
    assert np.abs(one(*inputs) - other(*inputs)).max() < QUARTER_LEVEL


def test_pytorch_gives_what_onnx_runtime_gives(inputs):
    from tocsr.deploy.torch_session import TorchGraph

    result = TorchGraph(SHIPPED_MODEL, bfloat16=False)(*inputs)
    one = open_graph(SHIPPED_MODEL, "onnx", "cpu", 1)(*inputs)
    assert (result.dtype, result.flags.c_contiguous) == (np.float32, True)
    assert np.abs(one - result).max() < QUARTER_LEVEL


def test_bfloat16_costs_less_than_50_db(inputs):
    from tocsr.deploy.torch_session import TorchGraph

    half, exact = (TorchGraph(SHIPPED_MODEL, bfloat16=on)(*inputs) for on in (True, False))
    assert half.dtype == np.float32
    assert not np.array_equal(half, exact)
    assert 10 * np.log10(4 / np.square(half - exact).mean()) > 50


def test_a_processor_that_emulates_bfloat16_is_given_float32(monkeypatch):
    import torch

    from tocsr.deploy.torch_session import computes_in_bfloat16

    cpu = torch.device("cpu")
    for known, expected in [
        ({"avx512_bf16": False}, False),
        ({"amx_bf16": True}, True),
        ({}, False),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        assert computes_in_bfloat16(cpu) is expected


@pytest.mark.parametrize("backend", ON_THE_GRAPH)
def test_threads_may_share_a_graph(inputs, backend):
    graph = open_graph(SHIPPED_MODEL, backend, "cpu", 1)
    image, noise = inputs
    results = {}

    def compute(number):
        results[number] = graph(image * number / 4, noise)

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, result in results.items():
        assert np.array_equal(result, graph(image * number / 4, noise))


@pytest.mark.parametrize(
    ("backend", "device", "engine"),
    [("auto", "cpu", "onnxruntime"), ("torch", "cpu", "torch"), ("auto", "auto", "torch")],
)
def test_the_engine_says_what_was_chosen(backend, device, engine):
    assert Upscaler.from_pretrained(None, 1, backend, device).engine.startswith(engine)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_gpu_is_pytorchs_alone(toy_model, backend):
    with pytest.raises(TocsrError, match=f"device cuda needs backend torch, got {backend}"):
        Upscaler.from_pretrained(toy_model, backend=backend, device="cuda")


def test_a_device_that_is_not_there_is_said_in_one_line():
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(TocsrError, match="device 'mps' cannot be used") as raised:
        Upscaler.from_pretrained(device="mps")
    assert raised.value.code is ExitCode.USAGE
    assert "\n" not in str(raised.value)


def test_an_engine_that_is_not_installed_comes_with_its_command(toy_model, monkeypatch):
    absent = Engine("openvino_session", "no_such_package", "openvino")
    monkeypatch.setitem(graphs.ENGINES, "openvino", absent)
    with pytest.raises(TocsrError, match="needs the package no_such_package") as raised:
        Upscaler.from_pretrained(toy_model, backend="openvino")
    assert raised.value.hint == "run: pip install 'tocsr[openvino]'"


@pytest.mark.parametrize("backend", ON_THE_GRAPH)
@pytest.mark.parametrize("name", ["upscaler.onnx", "unet/weights.safetensors"])
@pytest.mark.parametrize("length", [None, 40])
def test_a_model_file_missing_or_cut_short_is_one_line(toy_model, backend, name, length):
    path = toy_model / name
    content = path.read_bytes()
    path.unlink()
    if length:
        path.write_bytes(content[:length])
    with pytest.raises(TocsrError) as raised:
        Upscaler.from_pretrained(toy_model, backend=backend)
    assert raised.value.code is ExitCode.MODEL
    assert str(toy_model) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("backend", ON_THE_GRAPH)
def test_a_graph_with_another_output_is_refused_by_every_engine(make_model, backend):
    folder = make_model([helper.make_node("Neg", ["image"], ["other"])], {})
    with pytest.raises(TocsrError) as raised:
        Upscaler.from_pretrained(folder, backend=backend)
    assert raised.value.code is ExitCode.MODEL


def test_a_run_computes_on_the_backend_it_was_told(tmp_path, toy_model, photo, monkeypatch):
    from PIL import Image

    opened = []

    def watched(folder, backend, device, num_threads):
        opened.append((backend, device, num_threads))
        return open_graph(folder, "onnx", "cpu", num_threads)

    monkeypatch.setattr("tocsr.deploy.upscaler.open_graph", watched)
    Image.fromarray(photo).save(tmp_path / "a.png")
    run(
        UpscaleConfig(
            inputs=[tmp_path / "a.png"],
            model=toy_model,
            backend="torch",
            device="cuda",
            num_threads=1,
        )
    )
    assert opened == [("torch", "cuda", 1)]


def test_openvino_runs_without_torch_and_onnx_runtime(toy_model):
    if not find_spec("openvino"):
        pytest.skip("needs openvino")
    code = (
        "import sys; from pathlib import Path; from tocsr.deploy.upscaler import Upscaler;"
        "Upscaler.from_pretrained(Path(sys.argv[1]), backend='openvino');"
        "print({'torch', 'onnx', 'onnxruntime'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", code, str(toy_model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
