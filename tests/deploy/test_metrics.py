import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import convolve
from scipy.special import gamma
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tocsr.deploy.metrics import niqe as niqe_module
from tocsr.deploy.metrics.color import rgb_to_gray, rgb_to_y
from tocsr.deploy.metrics.niqe import NaturalPhotos, block_features, fitted, halved, niqe
from tocsr.deploy.metrics.psnr import psnr_y, rgb_psnr
from tocsr.deploy.metrics.ssim import C1, C2, iqa_ssim, rgb_ssim, ssim_y
from tocsr.deploy.metrics.subject import Subject, pair
from tocsr.errors import ExitCode, TocsrError

# Of single precision inside SSIM: windows of values about 128 keep six digits of a variance
SINGLE = 1e-6
DECIBEL = 1e-5  # of single precision inside PSNR: 4.3 dB times the relative error of a square


def noise_image(seed: int, height: int = 24, width: int = 31) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def changed(image: np.ndarray, seed: int, level: int) -> np.ndarray:
    change = np.random.default_rng(seed).integers(-level, level + 1, image.shape)
    return np.clip(image + change, 0, 255).astype(np.uint8)


# ---- luma


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


def test_luma_in_full_swing_is_the_other_stretched():
    image = noise_image(0)
    # 219 levels stand for 255, and 0.299 for 65.481 / 219
    assert rgb_to_gray(image) == pytest.approx((rgb_to_y(image) - 16) * 255 / 219, abs=1e-9)


# ---- PSNR


@given(offset=st.integers(1, 200))
def test_psnr_of_a_constant_offset_has_a_closed_form(offset):
    reference = np.full((5, 6, 3), 20, np.uint8)
    image = reference + np.uint8(offset)
    luma_offset = offset * 219 / 255  # 65.481 + 128.553 + 24.966 = 219
    assert psnr_y(image, reference) == pytest.approx(
        20 * math.log10(255 / luma_offset), abs=DECIBEL
    )
    assert rgb_psnr(*pair(image, reference)) == pytest.approx(20 * math.log10(255 / offset))


def test_luma_is_131_hundredths_of_a_decibel_above_gray():
    one, other = (np.repeat(noise_image(seed)[:, :, :1], 3, axis=2) for seed in (0, 1))
    # of gray images, RGB and full swing agree, and studio swing is 219 / 255 of it
    apart = psnr_y(one, other) - rgb_psnr(*pair(one, other))
    assert apart == pytest.approx(20 * math.log10(255 / 219), abs=DECIBEL)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), level=st.integers(1, 250))
def test_psnr_equals_skimage(seed, level):
    reference = noise_image(seed, 90, 700)
    image = changed(reference, seed + 1, level)
    theirs = peak_signal_noise_ratio(rgb_to_y(reference), rgb_to_y(image), data_range=255)
    assert psnr_y(image, reference) == pytest.approx(theirs, abs=DECIBEL)
    theirs = peak_signal_noise_ratio(reference, image)
    assert rgb_psnr(*pair(image, reference)) == pytest.approx(theirs, abs=DECIBEL)


def test_psnr_of_one_channel_off_is_a_third_of_the_error():
    reference = np.full((4, 4, 3), 100, np.uint8)
    image = reference.copy()
    image[:, :, 1] += 30
    assert rgb_psnr(*pair(image, reference)) == pytest.approx(10 * math.log10(255**2 * 3 / 30**2))


def test_psnr_of_equal_images_is_infinite():
    assert psnr_y(noise_image(0), noise_image(0)) == math.inf


# ---- SSIM


@settings(max_examples=30, deadline=None)  # the first call loads scipy's filters
@given(seed=st.integers(0, 1000), level=st.integers(0, 120))
def test_ssim_equals_skimage(seed, level):
    reference = noise_image(seed)
    image = changed(reference, seed + 1, level)
    options = {
        "gaussian_weights": True,  # crops 5 px, which leaves the windows inside the image
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 255,
    }
    theirs = structural_similarity(rgb_to_y(image), rgb_to_y(reference), **options)
    assert ssim_y(image, reference) == pytest.approx(theirs, abs=SINGLE)
    theirs = structural_similarity(image, reference, channel_axis=2, **options)
    assert rgb_ssim(*pair(image, reference)) == pytest.approx(theirs, abs=SINGLE)


def plain_iqa_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of two lumas window by window, negative structure counted as 0."""
    place = np.arange(11) - 5
    window = np.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(values):
        return convolve(values, window)[5:-5, 5:-5]

    mu_x, mu_y = mean(x), mean(y)
    structure = (2 * (mean(x * y) - mu_x * mu_y) + C2) / (
        mean(x * x) - mu_x**2 + mean(y * y) - mu_y**2 + C2
    )
    luminance = (2 * mu_x * mu_y + C1) / (mu_x**2 + mu_y**2 + C1)
    return float((luminance * np.maximum(structure, 0)).mean())


def test_pyiqas_ssim_rounds_luma_and_counts_no_negative_structure():
    one, other = noise_image(1), noise_image(2)
    theirs = plain_iqa_ssim(rgb_to_y(one).round(), rgb_to_y(other).round())
    assert iqa_ssim(*pair(one, other)) == pytest.approx(theirs, abs=SINGLE)
    assert iqa_ssim(*pair(one, other)) > ssim_y(one, other) + 0.01  # half of noise is opposed


def test_ssim_of_two_constants_has_a_closed_form():
    dark, light = (np.full((11, 11, 3), level, np.uint8) for level in (0, 255))
    c1 = (0.01 * 255) ** 2
    expected = (2 * 16 * 235 + c1) / (16**2 + 235**2 + c1)  # both variances are 0
    # a variance of 0 is what is left of 112^2 in single precision, against C2 = 58.5
    assert ssim_y(dark, light) == pytest.approx(expected, abs=1e-5)


# ---- both


@pytest.mark.parametrize("metric", [ssim_y, lambda *two: rgb_ssim(*pair(*two))])
def test_an_image_is_like_itself(metric):
    assert metric(noise_image(0), noise_image(0)) == pytest.approx(1, abs=SINGLE)


def test_a_border_leaves_its_pixels_out():
    image = noise_image(0)
    spoilt = image.copy()
    spoilt[:2], spoilt[-2:], spoilt[:, :2], spoilt[:, -2:] = 0, 0, 0, 0
    assert psnr_y(spoilt, image, border=2) == math.inf
    assert ssim_y(spoilt, image, border=2) == pytest.approx(1, abs=SINGLE)
    assert ssim_y(spoilt, image, border=1) < 0.999


@pytest.mark.parametrize("metric", [psnr_y, ssim_y])
def test_a_shift_by_a_pixel_costs_as_much_to_either_side(metric):
    image = noise_image(0, 40, 40)
    inner, shifted = image[:, 1:], image[:, :-1]
    assert metric(inner, shifted) == pytest.approx(metric(shifted, inner), abs=SINGLE)
    assert metric(inner, shifted) < metric(inner, changed(inner, 1, 20))


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


def test_what_is_derived_of_an_image_is_made_once():
    image, made = Subject(noise_image(0)), []
    for _ in range(2):
        assert image.derived("count", lambda _: made.append(1) or len(made)) == 1


# ---- NIQE


def parameters(seed: int = 0) -> NaturalPhotos:
    """Parameters of no real photos, with the window of the real ones."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((36, 36))
    row = np.exp(-((np.arange(7) - 3) ** 2) / (2 * (7 / 6) ** 2))
    return NaturalPhotos(
        torch.tensor(rng.standard_normal(36)),
        torch.tensor(mix @ mix.T + np.eye(36)),
        torch.tensor(row / row.sum()),
    )


def gray(height: int = 192, width: int = 288, seed: int = 0) -> torch.Tensor:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width))
    return torch.tensor(convolve(levels.astype(float), np.full((3, 3), 1 / 9)).round())


def test_halving_a_ramp_takes_the_means_of_neighbours():
    ramp = torch.arange(40, dtype=torch.float64).repeat(12, 1)
    assert (
        halved(ramp)[:, 3:-3].numpy()
        == pytest.approx(  # the cubic keeps straight lines
            np.arange(0.5, 40, 2)[3:-3][None].repeat(6, 0), abs=1e-12
        )
    )


def test_halving_is_matlabs_antialiased_cubic_with_mirrored_borders():
    row = torch.tensor([10.0, 20, 40, 10, 0, 30, 20, 50], dtype=torch.float64)

    def cubic(x):
        x = abs(x)
        inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return inner if x <= 1 else outer if x <= 2 else 0.0

    def at(place):  # MATLAB's mirror repeats the border pixel
        return row[-1 - place if place < 0 else 15 - place if place > 7 else place].item()

    for out in range(4):
        places = range(2 * out - 4, 2 * out + 6)
        weights = [cubic((place - 2 * out - 0.5) / 2) for place in places]
        expected = sum(w * at(p) for w, p in zip(weights, places, strict=True)) / sum(weights)
        assert halved(row.repeat(8, 1))[0, out].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.8, 1.0, 2.0, 4.0])
def test_a_generalised_gaussian_is_fitted_by_its_own_shape(alpha):
    rng = np.random.default_rng(0)
    size = rng.gamma(1 / alpha, size=(1, 400, 400)) ** (1 / alpha)
    sign = rng.choice([-1, 1], size.shape)
    scale = np.where(sign < 0, 2.0, 0.5)
    found, left, right = fitted(torch.tensor(sign * size))
    # of 160 000 samples; the shape is estimated to a hundredth or two
    assert found.item() == pytest.approx(alpha, rel=0.03)
    assert (left.item(), right.item()) == pytest.approx((1, 1), rel=0.03)
    _, left, right = fitted(torch.tensor(sign * size * scale))
    assert left.item() / right.item() == pytest.approx(4, rel=0.03)


def test_the_features_of_a_block_are_the_papers():
    values = torch.tensor(np.random.default_rng(0).standard_normal((1, 48, 48)))
    features = block_features(values[0], 48)[0]
    products = values * values.roll((1, -1), dims=(1, 2))
    alpha, left, right = fitted(products)
    mean = (right - left).item() * gamma(2 / alpha.item()) / gamma(1 / alpha.item())
    assert features[-4:].tolist() == pytest.approx(
        [alpha.item(), mean, left.item(), right.item()], abs=1e-9
    )
    assert len(features) == niqe_module.NUM_FEATURES / 2


def test_niqe_is_the_distance_between_two_gaussians(monkeypatch):
    rng = np.random.default_rng(3)
    features = rng.standard_normal((6, 36))
    parts = iter([torch.tensor(features[:, :18]), torch.tensor(features[:, 18:])])
    monkeypatch.setattr(niqe_module, "block_features", lambda *_: next(parts))
    natural = parameters()
    apart = natural.mean.numpy() - features.mean(axis=0)
    pooled = (natural.covariance.numpy() + np.cov(features.T)) / 2
    expected = math.sqrt(apart @ np.linalg.solve(pooled, apart))
    assert niqe(gray(), natural) == pytest.approx(expected, rel=1e-9)


def test_niqe_does_not_see_beyond_the_last_whole_block():
    image = gray(192, 288)
    larger = torch.nn.functional.pad(image, (0, 95, 0, 95), value=7.0)
    assert niqe(larger, parameters()) == niqe(image, parameters())


def test_niqe_of_one_colour_is_not_defined():
    assert math.isnan(niqe(torch.zeros(192, 192, dtype=torch.float64), parameters()))


def test_niqe_needs_two_blocks():
    with pytest.raises(TocsrError, match=r"two blocks of 96 x 96 pixels, got \(191, 100\)"):
        niqe(torch.zeros(191, 100, dtype=torch.float64), parameters())


def test_a_file_without_the_parameters_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    with pytest.raises(TocsrError, match="does not hold the parameters of NIQE") as raised:
        NaturalPhotos.from_file(tmp_path / "other.npz")
    assert raised.value.code is ExitCode.MODEL
