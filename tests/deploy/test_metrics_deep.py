"""LPIPS and DISTS with random weights, against the authors' packages with the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tocsr.deploy.metrics.dists import load_dists
from tocsr.deploy.metrics.lpips import load_lpips
from tocsr.deploy.metrics.subject import pair
from tocsr.deploy.metrics.trunks import alexnet, vgg16
from tocsr.errors import ExitCode, TocsrError

# lpips 0.1.4, and DISTS-pytorch 0.1, with the weights and the images made below
PACKAGE = {"lpips": 0.1535876, "dists": 0.0173779}
LOADERS = {"lpips": load_lpips, "dists": load_dists}


def random_trunk(name: str) -> dict[str, torch.Tensor]:
    """Weights under torchvision's names; the features keep their size from layer to layer."""
    rng = np.random.default_rng(0)
    trunk = alexnet() if name == "lpips" else vgg16(nn.Identity)
    state = {}
    for key, tensor in trunk.state_dict().items():
        size = np.sqrt(2 / tensor[0].numel()) if tensor.ndim == 4 else 0.1
        values = size * rng.standard_normal(tensor.shape, dtype=np.float32)
        state[f"features.{key}"] = torch.from_numpy(values.astype(np.float32))
    return state


def random_heads(name: str) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(1)
    if name == "dists":
        return {k: torch.tensor(rng.random((1, 1475, 1, 1)).astype("f")) for k in ("alpha", "beta")}
    widths = enumerate((64, 192, 384, 256, 256))
    return {
        f"lin{layer}.model.1.weight": torch.tensor(rng.random((1, width, 1, 1)).astype("f"))
        for layer, width in widths
    }


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    one = rng.integers(0, 256, (40, 53, 3))
    other = np.clip(one + rng.integers(-60, 61, one.shape), 0, 255)
    return [one.astype(np.uint8), other.astype(np.uint8)]


@pytest.fixture(scope="module", params=LOADERS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def paths(name, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp(name)
    torch.save(random_trunk(name), folder / "trunk.pth")
    torch.save(random_heads(name), folder / "heads.pth")
    return [folder / "trunk.pth", folder / "heads.pth"]


@pytest.fixture(scope="module")
def measure(name, paths):
    return LOADERS[name](paths)


def test_the_metric_equals_the_authors_package(measure, name):
    assert measure(*pair(*images())) == pytest.approx(PACKAGE[name], abs=1e-6)


def test_equal_images_have_no_distance(measure):
    one, _ = images()
    assert measure(*pair(one, one)) == pytest.approx(0, abs=1e-5)  # single precision about 1


def test_swapped_images_have_the_same_distance(measure):
    one, other = images()
    assert measure(*pair(one, other)) == pytest.approx(measure(*pair(other, one)), rel=1e-5)


def test_a_larger_error_is_farther(measure):
    one, other = images()
    nearer = ((one.astype(int) * 3 + other) // 4).astype(np.uint8)
    assert measure(*pair(nearer, one)) < measure(*pair(other, one))


def test_images_without_room_are_refused(measure):
    small = [image[:12, :12] for image in images()]
    with pytest.raises(TocsrError, match=r"needs at least \d\d x \d\d pixels, got \(12, 12\)"):
        measure(*pair(*small))


@pytest.mark.parametrize("broken", [0, 1])
def test_a_file_that_is_no_weights_is_named(name, paths, broken, tmp_path):
    given = list(paths)
    given[broken] = tmp_path / "broken.pth"
    torch.save({"other": torch.zeros(3)}, given[broken])
    with pytest.raises(TocsrError, match=r"broken\.pth") as raised:
        LOADERS[name](given)
    assert raised.value.code is ExitCode.MODEL
    given[broken].write_bytes(b"no file of PyTorch")
    with pytest.raises(TocsrError, match=r"broken\.pth does not hold the weights"):
        LOADERS[name](given)
