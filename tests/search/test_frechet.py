import math

import pytest
import torch
from micro import MICRO
from scipy.linalg import sqrtm

from tocsr.models.folders import base_unet, base_vae
from tocsr.search.frechet import frechet_distance, sample_features


def normal(num, mean, factor, seed=0):
    """Samples whose mean and covariance are exactly `mean` and `factor factor^T`."""
    mean, factor = torch.tensor(mean).double(), torch.tensor(factor).double()
    raw = torch.randn(num, len(mean), generator=torch.Generator().manual_seed(seed)).double()
    raw -= raw.mean(0)
    root = torch.linalg.cholesky(raw.T @ raw / (num - 1))
    return torch.linalg.solve_triangular(root, raw.T, upper=False).T @ factor.T + mean


def test_equal_samples_are_at_distance_0():
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    # the square root of a rounding error of 1e-16
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-7)
    assert frechet_distance(features, features.flip(0)) == pytest.approx(0, abs=1e-7)


def test_equal_samples_of_fewer_than_their_features_are_at_distance_0():
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-6)


def test_a_shift_counts_squared():
    features = normal(40, [0.0, 0.0], [[2.0, 0.0], [1.0, 1.0]])
    assert frechet_distance(features, features + torch.tensor([3.0, 4.0])) == pytest.approx(25)


def test_normal_distributions_of_one_dimension_differ_by_their_standard_deviations():
    found = frechet_distance(normal(30, [1.0], [[2.0]]), normal(40, [0.0], [[0.5]], seed=1))
    assert found == pytest.approx((1 - 0) ** 2 + (2 - 0.5) ** 2)


def test_covariances_that_do_not_commute_agree_with_the_root_of_their_product():
    first, second = [[1.0, 0.0], [2.0, 0.5]], [[0.3, 0.7], [-1.0, 1.0]]
    c1, c2 = (torch.tensor(f).double() @ torch.tensor(f).double().T for f in (first, second))
    expected = float(c1.trace() + c2.trace()) - 2 * sqrtm((c1 @ c2).numpy()).real.trace()
    found = frechet_distance(normal(30, [0.0, 0.0], first), normal(30, [0.0, 0.0], second, seed=1))
    assert found == pytest.approx(expected)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return base_unet(str(MICRO)).eval(), base_vae(str(MICRO), "vae").eval()


def test_the_features_are_two_for_each_latent_channel_and_no_function_of_the_batch(networks):
    unet, vae = networks
    one, two = (sample_features(unet, vae, 8, 5, size, 2, seed=0) for size in (5, 2))
    assert one.shape == (5, 2 * vae.config.latent_channels)
    assert one.isfinite().all()
    assert torch.allclose(one, two, atol=1e-5)  # float32 convolutions of another batch


def test_a_network_is_at_distance_0_from_itself_and_not_from_another(networks):
    unet, vae = networks
    torch.manual_seed(1)
    other = base_unet(str(MICRO)).eval()
    own = sample_features(unet, vae, 8, 12, 12, 2, seed=0)
    assert frechet_distance(own, own) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(own, sample_features(other, vae, 8, 12, 12, 2, seed=0)) > 1e-3
    assert math.isfinite(frechet_distance(own, own))
