"""Noise against its distribution: moments in closed form, and scipy's Poisson."""

import numpy as np
import pytest
import torch
from scipy import stats

from tocsr.data.degradation.noise import add_gaussian_noise, add_poisson_noise

SIDE = 200
NUM = SIDE * SIDE


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def flat(*levels: float) -> torch.Tensor:
    """An image whose channels are even, (1, 3, SIDE, SIDE), of levels of 255."""
    channels = torch.tensor(levels if len(levels) == 3 else levels * 3) / 255
    return channels.view(1, 3, 1, 1).expand(1, 3, SIDE, SIDE).contiguous()


def added(noisy: torch.Tensor, image: torch.Tensor) -> np.ndarray:
    """What was added, in levels of 255, (3, NUM)."""
    return ((noisy - image) * 255)[0].flatten(1).double().numpy()


@pytest.mark.parametrize("sigma", [2.0, 15.0])
def test_gaussian_noise_is_normal_with_the_deviation_in_levels(sigma):
    image = flat(128)  # so far from black and white that nothing is clipped
    noise = added(add_gaussian_noise(image, sigma, False, generator()), image)
    # Kolmogorov's distance of NUM samples exceeds this once in 1000 times
    for channel in noise:
        assert stats.kstest(channel, "norm", args=(0, sigma)).statistic < 1.95 / NUM**0.5


def test_gaussian_noise_is_the_generators_times_the_deviation_in_levels():
    image = flat(128)
    expected = 15 * torch.randn(image.shape, generator=generator())[0].flatten(1)
    noise = added(add_gaussian_noise(image, 15.0, False, generator()), image)
    np.testing.assert_allclose(noise, expected.numpy(), atol=1e-4)  # float32 of levels


@pytest.mark.parametrize(("add", "strength"), [(add_gaussian_noise, 9), (add_poisson_noise, 0.05)])
def test_gray_noise_is_the_same_in_all_channels_and_colour_noise_is_not(add, strength):
    image = flat(100, 140, 180)
    gray = added(add(image, strength, True, generator()), image)
    colour = added(add(image, strength, False, generator()), image)
    np.testing.assert_allclose(gray[0], gray[1], atol=1e-4)  # float32 of the same sum
    np.testing.assert_allclose(gray[0], gray[2], atol=1e-4)
    # 4 standard errors of a correlation of independent numbers
    assert np.abs(np.corrcoef(colour) - np.eye(3)).max() < 4 / NUM**0.5


@pytest.mark.parametrize("add", [add_gaussian_noise, add_poisson_noise])
def test_a_noisy_image_stays_between_black_and_white(add):
    noisy = add(flat(3, 128, 252), 3.0 if add is add_poisson_noise else 30.0, False, generator())
    assert noisy.min() == 0
    assert noisy.max() == 1


def with_levels(num_levels: int) -> torch.Tensor:
    """A gray image whose first row holds so many levels, 64 among them; the others are level 64."""
    image = flat(64)
    image[..., 0, :num_levels] = torch.arange(64, 64 + num_levels) / 255
    return image


@pytest.mark.parametrize(("num_levels", "photons"), [(1, 1), (2, 2), (3, 4), (100, 128)])
def test_a_pixel_counts_as_many_photons_as_levels_rounded_up_to_a_power_of_two(num_levels, photons):
    image = with_levels(num_levels)
    noise = added(add_poisson_noise(image, 0.02, False, generator()), image)[:, SIDE:]
    counts = np.rint((noise / 0.02 / 255 + 64 / 255) * photons).ravel()
    mean = 64 / 255 * photons
    # scipy's distribution, to 4 standard errors of the share of each count
    for count in range(int(mean + 4 * mean**0.5) + 1):
        share = stats.poisson(mean).pmf(count)
        error = 4 * (share * (1 - share) / counts.size) ** 0.5
        assert abs((counts == count).mean() - share) < error + 1e-6


def test_poisson_noise_has_the_variance_of_its_brightness_times_the_square_of_its_scale():
    image = (
        torch.arange(256).repeat_interleave(200).view(1, 1, 256, 200).expand(1, 3, 256, 200) / 255
    )
    noise = (add_poisson_noise(image, 0.5, False, generator()) - image)[0, :, 64:192].double()
    # 256 levels make 256 photons of white
    expected = 0.5**2 * torch.arange(64, 192) / 255 / 256
    variance = noise.transpose(0, 1).flatten(1).var(1)
    # the standard error of a variance of 600 numbers is its own times (2 / 600)^(1/2); 5 of them
    assert ((variance / expected - 1).abs() < 5 * (2 / 600) ** 0.5).all()


def test_gray_poisson_noise_counts_the_gray_image():
    image = flat(255, 0, 0)
    noise = added(add_poisson_noise(image, 0.1, True, generator()), image)[1]
    gray = round(0.2989 * 255) / 255  # one level: white is one photon
    counts = np.rint(noise / 25.5 + gray)
    # black is clipped from below, where no photon came: -gray becomes 0
    share = stats.poisson(gray).sf(0)
    assert abs((counts > 0).mean() - share) < 4 * (share * (1 - share) / NUM) ** 0.5
