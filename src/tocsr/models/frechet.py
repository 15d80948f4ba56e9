"""The Frechet distance of two sets of images in the features of a network.

Dowson and Landau, "The Frechet distance between multivariate normal distributions", Journal of
Multivariate Analysis 12(3), 1982; of Inception's features it is FID (Heusel et al., NeurIPS 2017).
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor


class Moments:
    """Mean and covariance of features that come in batches, in memory that does not grow.

    Batches are merged by Chan, Golub and LeVeque, "Algorithms for computing the sample variance",
    The American Statistician 37(3), 1983, in double precision.

    Args:
        num_features: F.

    Example:
        >>> Moments(1).add_(torch.tensor([[1.0], [3.0]])).covariance.item()  # (1 + 1) / (2 - 1)
        2.0
    """

    def __init__(self, num_features: int) -> None:
        self.count = 0
        self.mean = torch.zeros(num_features, dtype=torch.float64)
        self.scatter = torch.zeros(num_features, num_features, dtype=torch.float64)

    def add_(self, features: Tensor) -> Self:
        """Takes in a batch (N, F)."""
        batch = features.to(self.mean)
        total, mean = self.count + len(batch), batch.mean(dim=0)
        apart, centred = mean - self.mean, batch - mean
        self.scatter.addmm_(centred.T, centred)
        self.scatter.addr_(apart, apart, alpha=self.count * len(batch) / total)
        self.mean.add_(apart, alpha=len(batch) / total)
        self.count = total
        return self

    @property
    def covariance(self) -> Tensor:
        """(F, F), of a sample: divided by N - 1."""
        return self.scatter / (self.count - 1)


def frechet_distance(one: Moments, other: Moments) -> float:
    """|| m_1 - m_2 ||^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)), of the normal distributions fitted.

    The trace of the root is that of (R S_2 R)^(1/2) with R the root of S_1, a symmetric matrix,
    whose eigenvalues are real and, but for rounding, not negative.

    Returns:
        At least 0; 0 for equal samples but for rounding, about 1e-7 of the variances. NaN where a
        sample is of fewer than two, which have no covariance.
    """
    if min(one.count, other.count) < 2:
        return math.nan
    values, vectors = torch.linalg.eigh(one.covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ other.covariance @ root)
    trace = one.covariance.trace() + other.covariance.trace()
    trace -= 2 * product.clamp_min(0).sqrt().sum()
    return max(float((one.mean - other.mean).square().sum() + trace), 0.0)
