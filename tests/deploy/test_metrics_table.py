import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tocsr.data.images import to_tensor
from tocsr.deploy.metrics import table
from tocsr.deploy.metrics.subject import pair
from tocsr.deploy.metrics.table import METRICS, chosen_metrics, load_metrics
from tocsr.errors import ExitCode, TocsrError
from tocsr.models.perceptual import ShiftTolerantLPIPS
from tocsr.restoration import task_rows


def noise_pair(side: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (2, side, side + 5, 3), dtype=np.uint8))


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    """A folder with random weights of ST-LPIPS, whose checksum the row has."""
    torch.manual_seed(0)
    state = ShiftTolerantLPIPS("alex").state_dict()
    for layer in range(5):
        state[f"lin{layer}.model.1.weight"] = state.pop(f"heads.{layer}")
    row = METRICS["stlpips"]
    (only,) = row.weights
    file = tmp_path / only.file
    save_file(state, file)
    known = replace(only, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setitem(table.METRICS, "stlpips", replace(row, weights=(known,)))
    return tmp_path


@pytest.mark.parametrize("name", METRICS)
def test_a_row_measures_by_itself_by_files_or_by_pyiqa(name):
    metric = METRICS[name]
    loads = [metric.load is not None, metric.load_features is not None]
    assert bool(metric.weights) == any(loads)
    ways = [metric.measure is not None, *loads, bool(metric.pyiqa)]
    assert sum(ways) == 1


def test_all_metrics_are_those_that_can_be_computed():
    assert list(chosen_metrics(["all"], [], has_reference=True)) == list(METRICS)
    assert list(chosen_metrics(["all"], [], has_reference=False)) == [
        *("niqe", "musiq", "maniqa", "clipiqa")
    ]


@pytest.mark.parametrize("task", task_rows())
def test_without_names_the_metrics_of_the_task_are_chosen_that_can_be_computed(task):
    usual = task_rows()[task].metrics
    assert list(chosen_metrics([], usual, has_reference=True)) == usual
    assert list(chosen_metrics([], usual, has_reference=False)) == ["niqe"]


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(TocsrError, match="no metric is called 'psnry'; did you mean 'psnr-y'"):
        chosen_metrics(["psnry"], [], has_reference=True)


def test_a_metric_that_compares_is_refused_without_references():
    with pytest.raises(TocsrError, match="psnr-y compares with references, none are given"):
        chosen_metrics(["psnr-y"], [], has_reference=False)


@pytest.mark.parametrize("folder", [None, Path("nowhere")])
def test_a_metric_without_its_file_says_how_to_get_it(folder):
    ready, absent = load_metrics(dict(METRICS), folder)
    assert absent.keys() == {name for name, row in METRICS.items() if row.measure is None}
    assert "--pyiqa IQA/bin/python" in absent["musiq"]
    assert ready.keys() | absent.keys() == METRICS.keys()
    assert "needs in the folder --metric_weights: niqe_pris_params.npz" in absent["niqe"]
    assert "pip download basicsr" in absent["niqe"]


def test_a_file_with_other_bytes_is_refused(tmp_path):
    (tmp_path / "niqe_pris_params.npz").write_bytes(b"something else")
    with pytest.raises(TocsrError, match="must have the SHA-256 2a7c182a") as raised:
        load_metrics({"niqe": METRICS["niqe"]}, tmp_path)
    assert raised.value.code is ExitCode.MODEL


def test_stlpips_is_the_distance_of_the_network(weights):
    ready, absent = load_metrics({"stlpips": table.METRICS["stlpips"]}, weights)
    assert absent == {}
    one, other = noise_pair()
    network = ShiftTolerantLPIPS.from_file(weights / "stlpips_alex.safetensors")
    expected = network(to_tensor(one)[None], to_tensor(other)[None]).item()
    # in other operations, whose rounding is five times that of the network's
    assert ready["stlpips"](*pair(one, other)) == pytest.approx(expected, rel=1e-4)
    assert ready["stlpips"](*pair(one, one)) == 0


def test_stlpips_refuses_small_images(weights):
    ready, _ = load_metrics({"stlpips": table.METRICS["stlpips"]}, weights)
    with pytest.raises(TocsrError, match=r"at least 32 x 32 pixels, got \(31, 36\)"):
        ready["stlpips"](*pair(*noise_pair(31)))
