"""Means over images with their uncertainty, and comparisons of two systems image by image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tocsr.seeding import numpy_rng

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NUM_RESAMPLES = 2000
LEVEL = 0.95
_AT_ONCE = 100  # resamples in memory


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over images.

    Args:
        mean: Over the images with a value.
        low: Lower end of the bootstrap interval.
        high: Upper end.
        num_images: Images with a value; those without one, NaN, are left out.
    """

    mean: float
    low: float
    high: float
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One system against another on the same images.

    Args:
        difference: Mean of the first's values minus the second's.
        wins: Images on which the first is better.
        losses: Images on which the second is.
        ties: Images on which they are equal.
    """

    difference: Mean
    wins: int
    losses: int
    ties: int


def mean_with_interval(values: Sequence[float]) -> Mean:
    """The mean and its 95 % percentile interval over 2000 resamples of the images.

    Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7(1), 1979. The
    resamples are a function of the number of images alone, so figures can be computed again.

    Args:
        values: One for each image; NaN where there is none.
    """
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if len(known) == 0:
        return Mean(mean=np.nan, low=np.nan, high=np.nan, num_images=0)
    tail = (1 - LEVEL) / 2
    # without interpolation, which has no answer between two infinities
    low, high = np.quantile(_resampled(known), [tail, 1 - tail], method="inverted_cdf")
    return Mean(mean=float(known.mean()), low=float(low), high=float(high), num_images=len(known))


def _resampled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    rng = numpy_rng(0, "bootstrap")
    count = len(values)
    parts = [
        values[rng.integers(count, size=(_AT_ONCE, count))].mean(axis=1)
        for _ in range(NUM_RESAMPLES // _AT_ONCE)
    ]
    return np.concatenate(parts)


def compare(first: Sequence[float], second: Sequence[float], higher_is_better: bool) -> Comparison:
    """The first system against the second, paired by image.

    Args:
        first: Values, one for each image.
        second: Values of the same images in the same order.
        higher_is_better: What wins.
    """
    one, other = (np.asarray(values, dtype=np.float64) for values in (first, second))
    equal = one == other
    # where both are infinite the difference is 0, and not NaN
    apart = np.subtract(one, other, out=np.zeros_like(one), where=~equal)
    better = apart > 0 if higher_is_better else apart < 0
    known = ~np.isnan(apart)
    return Comparison(
        difference=mean_with_interval(apart.tolist()),
        wins=int((better & known).sum()),
        losses=int((~better & ~equal & known).sum()),
        ties=int(equal.sum()),
    )
