"""Each family of kernels against scipy or its own formula, and the filter against scipy's."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, ndimage, special, stats

from tocsr.data.degradation.draws import Blur
from tocsr.data.degradation.kernels import blur_images, kernel
from tocsr.data.degradation.settings import FAMILIES

AXIS = np.arange(21) - 10.0
EVERY = [
    *(
        Blur(family, 21, (2.0, 2.0), 0.0, 0.7)
        for family in FAMILIES
        if not family.endswith("aniso")
    ),
    *(Blur(family, 15, (2.0, 0.8), 0.6, 1.3) for family in FAMILIES if family.endswith("aniso")),
    Blur("sinc", 13, cutoff=2.0),
]


def normalised(values: np.ndarray) -> np.ndarray:
    return values / values.sum()


@pytest.mark.parametrize("blur", EVERY, ids=lambda blur: blur.family)
def test_a_kernel_sums_to_one_and_is_the_same_turned_by_half(blur):
    values = kernel(blur)
    assert values.shape == (blur.size, blur.size)
    assert values.sum().item() == pytest.approx(1, abs=1e-6)  # float32
    torch.testing.assert_close(values, values.flip(0, 1))


@pytest.mark.parametrize(("sigma", "rotation"), [((1.5, 1.5), 0.0), ((3.0, 0.7), 0.5)])
@pytest.mark.parametrize("family", ["aniso", "generalized_aniso"])
def test_a_gaussian_is_scipys_bivariate_normal(family, sigma, rotation):
    turn = np.array(
        [[math.cos(rotation), -math.sin(rotation)], [math.sin(rotation), math.cos(rotation)]]
    )
    covariance = turn @ np.diag(np.square(sigma)) @ turn.T
    places = np.stack(np.meshgrid(AXIS, AXIS), axis=-1)  # x to the right, y down
    expected = normalised(stats.multivariate_normal(cov=covariance).pdf(places))
    ours = kernel(Blur(family, 21, sigma, rotation, beta=1.0)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-9)  # float32


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0, 4.0])
def test_a_generalised_gaussians_middle_row_is_scipys_generalised_normal(beta):
    row = kernel(Blur("generalized_iso", 21, (1.7, 1.7), beta=beta))[10].double().numpy()
    # exp(-|x / s|^(2 beta) / 2) is exp(-|x / (s 2^(1 / 2 beta))|^(2 beta))
    expected = stats.gennorm(2 * beta, scale=1.7 * 2 ** (1 / (2 * beta))).pdf(AXIS)
    np.testing.assert_allclose(normalised(row), normalised(expected), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_a_plateau_falls_as_one_over_one_plus_a_power(beta):
    values = kernel(Blur("plateau_aniso", 21, (3.0, 1.0), 0.0, beta)).double()
    ratio = values[10, 10] / values
    for dy, dx in ((0, 0), (0, 3), (2, 0), (2, 6)):
        q = (dx / 3) ** 2 + (dy / 1) ** 2
        assert ratio[10 + dy, 10 + dx] == pytest.approx(1 + q**beta, rel=1e-5)  # float32


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quarter_turn_transposes_a_kernel(family):
    lying = kernel(Blur(family, 21, (3.0, 1.0), 0.0, 1.2))
    standing = kernel(Blur(family, 21, (3.0, 1.0), math.pi / 2, 1.2))
    torch.testing.assert_close(standing, lying.T, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("size", "cutoff"), [(7, math.pi / 3), (21, 2.5), (21, math.pi)])
def test_the_sinc_filter_is_the_transform_of_a_disk_of_frequencies(size, cutoff):
    def at(r: float) -> float:  # of frequencies up to the cutoff, over all directions
        return integrate.quad(lambda w: special.j0(w * r) * w / (2 * math.pi), 0, cutoff)[0]

    middle = size // 2
    places = [[math.hypot(y - middle, x - middle) for x in range(size)] for y in range(size)]
    expected = normalised(np.array([[at(r) for r in row] for row in places]))
    ours = kernel(Blur("sinc", size, cutoff=cutoff)).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-7)  # float32


@pytest.mark.parametrize("size", [(40, 33), (5, 3), (1, 2)])
def test_each_image_is_correlated_with_its_own_kernel_as_by_scipy(size):
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    kernels = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(1)) / 81
    ours = blur_images(images, kernels)
    for image, weights, blurred in zip(images, kernels, ours, strict=True):
        for plane, result in zip(image, blurred, strict=True):
            # scipy's "mirror" is the reflection that leaves the edge pixel single
            expected = ndimage.correlate(plane.numpy(), weights.numpy(), mode="mirror")
            np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)  # float32 sums
