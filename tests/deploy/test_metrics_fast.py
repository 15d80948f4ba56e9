"""The faster layers compute what the layers of the network do."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tocsr.deploy.metrics.stlpips import BlurredConv, blurred, fast_layers, most
from tocsr.deploy.metrics.winograd import SIDE, WinogradConv, transforms
from tocsr.models.perceptual import ShiftTolerantLPIPS

# Sums of a thousand products in single precision; by Winograd's points five times that
SINGLE, WINOGRAD = 1e-5, 5e-5


def pixels(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """(H, W, C)."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(height, width, channels, generator=generator)


def through(layer: nn.Module, h: torch.Tensor) -> torch.Tensor:
    """A layer of the network on (H, W, C)."""
    return layer(h.permute(2, 0, 1)[None])[0].permute(1, 2, 0)


@pytest.mark.parametrize("taps", [1, 3, 5, 7])
def test_the_transforms_make_a_correlation_of_a_product(taps):
    outputs, kernel, inputs = transforms(taps)
    d, g = torch.randn(SIDE).double(), torch.randn(taps).double()
    expected = F.conv1d(d[None, None], g[None, None])[0, 0]
    found = outputs @ ((kernel @ g) * (inputs @ d))
    assert torch.allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("size", [(1, 1), (6, 6), (13, 24), (70, 9)])
def test_a_convolution_by_winograd_is_the_convolution(taps, size):
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, taps, padding=taps // 2).requires_grad_(False)
    h = pixels(*size, 5)
    found = WinogradConv(conv)(h)
    assert torch.allclose(found, through(conv, h), atol=WINOGRAD)


def test_bands_of_squares_do_not_show(monkeypatch):
    conv = nn.Conv2d(5, 7, 3, padding=1).requires_grad_(False)
    h = pixels(40, 31, 5)
    whole = WinogradConv(conv)(h)
    monkeypatch.setattr("tocsr.deploy.metrics.winograd._BYTES_AT_ONCE", 1)
    # products of other sizes round otherwise
    assert torch.allclose(WinogradConv(conv)(h), whole, atol=WINOGRAD)


# even and odd, in either direction: the last reflected row is folded in one of them
SIZES = [(32, 32), (33, 40), (40, 33), (35, 47)]


@pytest.mark.parametrize("size", SIZES)
def test_a_blur_is_the_networks(size):
    blur = ShiftTolerantLPIPS("alex").net["slice2"][1]
    h = pixels(*size, 4)
    assert torch.allclose(blurred(h), through(blur, h), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_a_convolution_and_its_blur_are_one(size):
    conv, blur, _ = ShiftTolerantLPIPS("alex").net["slice1"]
    h = pixels(*size)
    expected = through(nn.Sequential(conv, blur), h)
    assert torch.allclose(BlurredConv(conv)(h), expected, atol=SINGLE)


@pytest.mark.parametrize("side", [2, 3])
def test_a_maximum_is_taken_along_either_side(side):
    h = pixels(9, 12, 4)
    assert torch.equal(most(h, side), through(nn.MaxPool2d(side, 1), h))


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_all_layers_make_the_features_of_the_network(trunk):
    torch.manual_seed(0)
    network = ShiftTolerantLPIPS(trunk)
    h = pixels(40, 45)
    expected = h.permute(2, 0, 1)[None]
    for part in network.net.values():
        expected = part(expected)
        for layer in fast_layers(part):
            h = layer(h)
        assert torch.allclose(h, expected[0].permute(1, 2, 0), atol=WINOGRAD)
