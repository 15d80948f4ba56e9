import numpy as np
import pytest

from tocsr.deploy import color_fix
from tocsr.deploy.color_fix import color_fixed, low_pass
from tocsr.deploy.resizing import resized


@pytest.fixture
def result(photo):
    """An enlargement of the photo with a colour cast, some contrast lost and some grain."""
    large = resized(photo, (212, 280)).astype(np.float64)
    grain = np.random.default_rng(0).normal(0, 6, large.shape)
    return np.clip(0.8 * large + (25, 0, -10) + grain, 0, 255).astype(np.uint8)


def test_none_gives_back_the_result(result, photo):
    assert color_fixed(result, photo, "none") is result


@pytest.mark.parametrize("how", ["wavelet", "adain"])
def test_the_mean_colours_become_the_photos(result, photo, how):
    before = np.abs(result.mean((0, 1)) - photo.mean((0, 1)))
    after = np.abs(color_fixed(result, photo, how).mean((0, 1)) - photo.mean((0, 1)))
    assert before.max() > 10
    assert after.max() < 1  # a level: the result is clipped and rounded to whole ones


def test_adain_gives_each_channel_the_photos_spread(result, photo):
    after = color_fixed(result, photo, "adain").std((0, 1))
    assert np.abs(after - photo.std((0, 1))).max() < 1


def test_adain_shifts_a_flat_result_and_no_more():
    flat, photo = np.full((8, 8, 3), 10, np.uint8), np.full((2, 2, 3), 70, np.uint8)
    assert (color_fixed(flat, photo, "adain") == 70).all()


def test_wavelet_keeps_fine_detail(photo):
    large = resized(photo, (212, 280))
    checks = (np.indices(large.shape[:2]).sum(0) % 2 * 20)[:, :, None]
    detailed = np.clip(large // 2 + 50 + checks, 0, 255).astype(np.uint8)
    fixed = color_fixed(detailed, photo, "wavelet").astype(int)
    neighbours = np.abs(np.diff(fixed[60:150, 60:200], axis=1)).mean()
    assert neighbours > 15  # the checks of 20 are still there


@pytest.mark.parametrize("how", ["wavelet", "adain"])
def test_sixteen_bits_are_fixed_like_eight(result, photo, how):
    eight = color_fixed(result, photo, how)
    sixteen = color_fixed(result * np.uint16(257), photo * np.uint16(257), how)
    assert np.abs(sixteen / 257 - eight).max() <= 0.51  # half a level of rounding


@pytest.mark.parametrize("how", ["wavelet", "adain"])
def test_the_strips_do_not_show(result, photo, how, monkeypatch):
    whole = color_fixed(result, photo, how)
    monkeypatch.setattr(color_fix, "_STRIP", 40)
    strips = color_fixed(result, photo, how)
    difference = np.abs(strips.astype(int) - whole)
    assert difference.max() <= 1  # float sums in another order, rounded the other way
    assert (difference > 0).mean() < 1e-3


def test_the_low_pass_of_a_point_is_the_product_of_its_kernels():
    point = np.zeros((1, 127, 1), np.float32)
    point[0, 63] = 1
    kernel = np.ones(1)
    for dilation in (1, 2, 4, 8, 16):
        taps = np.zeros(2 * dilation + 1)
        taps[[0, dilation, -1]] = (0.25, 0.5, 0.25)
        kernel = np.convolve(kernel, taps)
    low = low_pass(point)[0, :, 0]
    assert np.abs(low[63 - 31 : 63 + 32] - kernel).max() < 1e-7  # float32 of values below 0.04
    assert low[: 63 - 31].max() == 0
