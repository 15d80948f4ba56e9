import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from tocsr.models.frechet import Moments, frechet_distance


def distance(features, others):
    """Of two samples, (N, F) and (N', F)."""
    one, other = (Moments(sample.shape[1]).add_(sample) for sample in (features, others))
    return frechet_distance(one, other)


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
    assert distance(features, features) == pytest.approx(0, abs=1e-7)
    assert distance(features, features.flip(0)) == pytest.approx(0, abs=1e-7)


def test_equal_samples_of_fewer_than_their_features_are_at_distance_0():
    features = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert distance(features, features) == pytest.approx(0, abs=1e-6)


def test_a_shift_counts_squared():
    features = normal(40, [0.0, 0.0], [[2.0, 0.0], [1.0, 1.0]])
    assert distance(features, features + torch.tensor([3.0, 4.0])) == pytest.approx(25)


def test_normal_distributions_of_one_dimension_differ_by_their_standard_deviations():
    found = distance(normal(30, [1.0], [[2.0]]), normal(40, [0.0], [[0.5]], seed=1))
    assert found == pytest.approx((1 - 0) ** 2 + (2 - 0.5) ** 2)


def test_covariances_that_do_not_commute_agree_with_the_root_of_their_product():
    first, second = [[1.0, 0.0], [2.0, 0.5]], [[0.3, 0.7], [-1.0, 1.0]]
    c1, c2 = (torch.tensor(f).double() @ torch.tensor(f).double().T for f in (first, second))
    expected = float(c1.trace() + c2.trace()) - 2 * sqrtm((c1 @ c2).numpy()).real.trace()
    found = distance(normal(30, [0.0, 0.0], first), normal(30, [0.0, 0.0], second, seed=1))
    assert found == pytest.approx(expected)


def test_diagonal_covariances_differ_by_the_standard_deviations_of_each_feature():
    deviations, others = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.5, 1.0])
    raw = normal(30, [0.0] * 3, torch.eye(3).tolist())
    expected = float((deviations - others).square().sum())
    assert distance(raw * deviations, raw * others) == pytest.approx(expected)


def test_the_distance_is_the_same_from_either_side():
    one, other = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0))
    assert distance(one, other * 2) == pytest.approx(distance(other * 2, one))


def test_features_in_batches_have_the_moments_of_all_at_once():
    # a mean of a thousand standard deviations, which sums of squares would lose
    features = torch.randn(23, 5, generator=torch.Generator().manual_seed(0)).double() + 1000
    moments = Moments(5)
    for batch in features.split([1, 1, 9, 12]):
        moments.add_(batch)
    assert moments.count == 23
    assert moments.mean.numpy() == pytest.approx(features.mean(dim=0).numpy(), rel=1e-14)
    expected = np.cov(features.numpy(), rowvar=False)
    assert moments.covariance.numpy() == pytest.approx(expected, abs=1e-11)


def test_one_image_has_no_distance():
    one, many = torch.ones(1, 3), torch.randn(9, 3)
    assert math.isnan(distance(one, many))
    assert math.isnan(distance(many, one))
