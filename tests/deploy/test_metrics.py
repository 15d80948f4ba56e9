import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from tocsr.deploy.metrics.color import rgb_to_y
from tocsr.deploy.metrics.psnr import psnr_y
from tocsr.deploy.metrics.ssim import ssim_y
from tocsr.errors import TocsrError


def noise_image(seed: int, height: int = 24, width: int = 31) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# MATLAB: rgb2ycbcr of the primaries in double, times 255.
@pytest.mark.parametrize(
    ("rgb", "y"),
    [
        ((0, 0, 0), 16),
        ((255, 255, 255), 235),
        ((255, 0, 0), 81.481),
        ((0, 255, 0), 144.553),
        ((0, 0, 255), 40.966),
    ],
)
def test_luma_of_a_primary_is_matlabs(rgb, y):
    assert rgb_to_y(np.array(rgb, np.uint8).reshape(1, 1, 3))[0, 0] == pytest.approx(y, abs=1e-12)


@given(offset=st.integers(1, 200))
def test_psnr_of_a_constant_offset_has_a_closed_form(offset):
    reference = np.full((5, 6, 3), 20, np.uint8)
    image = reference + np.uint8(offset)
    luma_offset = offset * 219 / 255  # 65.481 + 128.553 + 24.966 = 219
    assert psnr_y(image, reference) == pytest.approx(20 * math.log10(255 / luma_offset), abs=1e-9)


def test_psnr_of_equal_images_is_infinite():
    assert psnr_y(noise_image(0), noise_image(0)) == math.inf


def test_a_border_leaves_its_pixels_out():
    image = noise_image(0)
    spoilt = image.copy()
    spoilt[:2], spoilt[-2:], spoilt[:, :2], spoilt[:, -2:] = 0, 0, 0, 0
    assert psnr_y(spoilt, image, border=2) == math.inf
    assert ssim_y(spoilt, image, border=2) == pytest.approx(1, abs=1e-12)


@given(seed=st.integers(0, 1000), level=st.integers(0, 120))
def test_ssim_equals_skimage(seed, level):
    reference = noise_image(seed)
    change = np.random.default_rng(seed + 1).integers(-level, level + 1, reference.shape)
    image = np.clip(reference + change, 0, 255).astype(np.uint8)
    theirs = structural_similarity(
        rgb_to_y(image),
        rgb_to_y(reference),
        gaussian_weights=True,  # crops 5 px, which leaves the windows inside the image
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert ssim_y(image, reference) == pytest.approx(theirs, abs=1e-9)


def test_ssim_of_two_constants_has_a_closed_form():
    dark, light = (np.full((11, 11, 3), level, np.uint8) for level in (0, 255))
    c1 = (0.01 * 255) ** 2
    expected = (2 * 16 * 235 + c1) / (16**2 + 235**2 + c1)  # both variances are 0
    assert ssim_y(dark, light) == pytest.approx(expected, abs=1e-9)


def test_metrics_are_symmetric():
    one, other = noise_image(1), noise_image(2)
    assert psnr_y(one, other) == psnr_y(other, one)
    assert ssim_y(one, other) == pytest.approx(ssim_y(other, one), abs=1e-12)


@pytest.mark.parametrize("metric", [psnr_y, ssim_y])
def test_images_of_two_sizes_are_refused(metric):
    with pytest.raises(TocsrError, match=r"one size, got \(24, 31, 3\) and \(24, 30, 3\)"):
        metric(noise_image(0), noise_image(0)[:, 1:])


@pytest.mark.parametrize("metric", [psnr_y, ssim_y])
def test_float_images_are_refused(metric):
    with pytest.raises(TocsrError, match="uint8 images"):
        metric(noise_image(0) / 255, noise_image(0) / 255)


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(TocsrError, match=r"at least 11 x 11 pixels, got \(10, 31\)"):
        ssim_y(noise_image(0)[:10], noise_image(0)[:10])


@pytest.mark.parametrize("border", [-1, 12])
def test_a_border_that_leaves_nothing_is_refused(border):
    with pytest.raises(TocsrError, match="border must be"):
        psnr_y(noise_image(0), noise_image(0), border)
