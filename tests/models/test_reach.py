"""How far a model looks beyond a tile, measured on networks whose reach is known."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tocsr.models.reach import measured_halo, measured_reach


class Blur(nn.Module):
    """A generator that takes the mean over a window: rows above to below, columns left to right.

    Args:
        height: Reach in rows.
        width: Reach in columns.
    """

    def __init__(self, height: int, width: int, weight: float = 1.0) -> None:
        super().__init__()
        self.facts = SimpleNamespace(pixel_multiple=64, latent_channels=4, latent_stride=8)
        self.vae = SimpleNamespace(device=torch.device("cpu"))
        self.window, self.weight = (2 * height + 1, 2 * width + 1), weight

    def forward(self, image, noise):
        padding = tuple(side // 2 for side in self.window)
        blurred = F.avg_pool2d(image, self.window, 1, padding)
        return self.weight * blurred + F.interpolate(noise.mean(1, keepdim=True), scale_factor=8)


@pytest.mark.parametrize(("height", "width"), [(0, 0), (0, 5), (9, 2), (0, 40)])
def test_the_reach_is_that_of_the_longer_side(height, width):
    assert measured_reach(Blur(height, width)) == max(height, width)


def test_what_is_below_the_tolerance_does_not_count():
    assert measured_reach(Blur(0, 5, weight=1e-3)) == 0
    assert measured_reach(Blur(0, 5, weight=1e-3), tolerance=1e-5) == 5


def test_noise_counts_too():
    class Noise(Blur):
        def forward(self, image, noise):
            mean = F.avg_pool2d(noise, 3, 1, 1).mean(1, keepdim=True)
            return super().forward(image, mean)

    assert measured_reach(Noise(0, 0)) == 8  # one latent pixel


def test_a_model_that_sees_everything_reaches_as_far_as_is_measured():
    class Whole(Blur):
        def forward(self, image, noise):
            return image + image.square().mean()

    assert measured_reach(Whole(0, 0), tolerance=0.0) == 4 * 64


@pytest.mark.parametrize(("reach", "halo"), [(0, 64), (5, 64), (32, 64), (33, 128), (40, 128)])
def test_the_halo_is_twice_the_reach_in_whole_multiples(reach, halo):
    assert measured_halo(Blur(0, reach)) == halo
