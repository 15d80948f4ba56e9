"""The three ways to resize against formulas written out in NumPy, and scipy's interpolation."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from tocsr.data.degradation.draws import MODES
from tocsr.data.degradation.resize import resize, scaled

SIZES = [((20, 14), (9, 11)), ((20, 14), (33, 30)), ((7, 9), (1, 1)), ((1, 3), (4, 2))]


def plane(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).random(size)


def ours(values: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    return resize(torch.from_numpy(values)[None, None], size, mode)[0, 0].numpy()


def places(before: int, after: int) -> np.ndarray:
    """Where the middles of the new pixels lie among the old ones."""
    return (np.arange(after) + 0.5) * before / after - 0.5


def cubic(distance: float) -> float:
    """Keys' kernel, a = -0.75."""
    a, x = -0.75, abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def cubic_matrix(before: int, after: int) -> np.ndarray:
    matrix = np.zeros((after, before))
    for row, place in enumerate(places(before, after)):
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[row, min(max(tap, 0), before - 1)] += cubic(place - tap)
    return matrix


def mean_matrix(before: int, after: int) -> np.ndarray:
    """Means over the pixels that a new pixel touches."""
    matrix = np.zeros((after, before))
    for row in range(after):
        first, last = row * before // after, -(-(row + 1) * before // after)
        matrix[row, first:last] = 1 / (last - first)
    return matrix


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_bilinear_is_scipys_at_the_middles_of_pixels(before, after):
    values = plane(before)
    grid = np.meshgrid(places(before[0], after[0]), places(before[1], after[1]), indexing="ij")
    expected = ndimage.map_coordinates(values, grid, order=1, mode="nearest")
    np.testing.assert_allclose(ours(values, after, "bilinear"), expected, atol=1e-12)


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize(("mode", "matrix"), [("bicubic", cubic_matrix), ("area", mean_matrix)])
def test_a_mode_is_its_matrix_along_both_sides(mode, matrix, before, after):
    values = plane(before)
    expected = matrix(before[0], after[0]) @ values @ matrix(before[1], after[1]).T
    np.testing.assert_allclose(ours(values, after, mode), expected, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_the_size_is_left_as_it_is(mode):
    images = torch.rand(2, 3, 5, 6)
    assert torch.equal(resize(images, (5, 6), mode), images)


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_keeps_its_place_through_two_sizes(mode):
    ramp = torch.arange(64.0).expand(1, 1, 64, 64)
    there = resize(ramp, scaled((64, 64), 0.377), mode)
    back = resize(there, (64, 64), mode)
    # what is far from the edges comes back within a pixel of the smaller size
    assert (back - ramp)[..., 8:-8].abs().max() < 64 / 24


def test_sizes_are_rounded_down_and_never_zero():
    assert scaled((64, 48), 0.99) == (63, 47)
    assert scaled((4, 64), 0.15) == (1, 9)
