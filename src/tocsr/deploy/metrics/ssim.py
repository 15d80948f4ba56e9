"""Structural similarity, of luma and of RGB.

Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
similarity", IEEE TIP 13(4), 2004, as the authors' MATLAB code has it: an 11 x 11 Gaussian window of
sigma 1.5 with weights of sum 1, K1 = 0.01, K2 = 0.03, L = 255, only windows that lie inside the
image, no downsampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tocsr.config import require
from tocsr.deploy.metrics.filters import filtered
from tocsr.deploy.metrics.subject import Subject, pair

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOW = 11
SIGMA = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # (K L)^2
# Subtracted before single precision: variances do not change, and their digits are kept
_MIDDLE = 128.0


def gaussian(width: int, sigma: float) -> Tensor:
    """(width,) weights of sum 1."""
    place = torch.arange(width, dtype=torch.float64) - width // 2
    weights = torch.exp(-(place**2) / (2 * sigma**2))
    return weights / weights.sum()


TAPS = gaussian(WINDOW, SIGMA)


@dataclass(frozen=True)
class Moments:
    """One channel about 128, and its mean and variance in each window.

    Args:
        values: (H, W), float32.
        mean: (H - 10, W - 10), of the values about 128.
        variance: The same.
    """

    values: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, channel: Tensor) -> Moments:
        """Moments of a channel (H, W) in [0, 255].

        Raises:
            TocsrError: It is smaller than a window.
        """
        require(
            min(channel.shape) >= WINDOW,
            f"SSIM needs at least {WINDOW} x {WINDOW} pixels, got {tuple(channel.shape)}",
        )
        values = (channel - _MIDDLE).float()
        mean = filtered(values, TAPS)
        return cls(values, mean, filtered(values**2, TAPS) - mean**2)


def ssim(x: Moments, y: Moments, floor: float = -torch.inf) -> float:
    """The mean over windows of luminance times contrast and structure; 1 is equal.

    SSIM = (2 mu_x mu_y + C1)(2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1)(s_x^2 + s_y^2 + C2))

    Args:
        x: Moments of a channel.
        y: Moments of another of the same size.
        floor: The least that contrast and structure may be.

    Returns:
        In [-1, 1].
    """
    # in place where it can be: fresh memory takes as long as the arithmetic
    covariance = filtered(x.values * y.values, TAPS).sub_(x.mean * y.mean)
    structure = covariance.mul_(2).add_(C2).div_((x.variance + y.variance).add_(C2))
    mean_x, mean_y = x.mean + _MIDDLE, y.mean + _MIDDLE
    luminance = (mean_x * mean_y).mul_(2).add_(C1)
    luminance.div_(mean_x.square_().add_(mean_y.square_()).add_(C1))
    return float(luminance.mul_(structure.clamp_(min=floor)).mean(dim=1).mean(dtype=torch.float64))


def luma_ssim(image: Subject, reference: Subject) -> float:
    """SSIM of Y, which is not rounded."""
    x, y = (one.derived("moments of Y", _of_y) for one in (image, reference))
    return ssim(x, y)


def iqa_ssim(image: Subject, reference: Subject) -> float:
    """SSIM of Y as pyiqa computes it, in which diffusion papers give their figures.

    Y is rounded to whole levels, and contrast and structure count as 0 where they are negative.
    """
    x, y = (one.derived("moments of rounded Y", _of_rounded_y) for one in (image, reference))
    return ssim(x, y, floor=0.0)


def rgb_ssim(image: Subject, reference: Subject) -> float:
    """The mean of the SSIM of R, G and B."""
    found = (one.derived("moments of RGB", _of_rgb) for one in (image, reference))
    return sum(ssim(x, y) for x, y in zip(*found, strict=True)) / 3


def _of_y(image: Subject) -> Moments:
    return Moments.of(image.y)


def _of_rounded_y(image: Subject) -> Moments:
    return Moments.of(image.y.round())


def _of_rgb(image: Subject) -> list[Moments]:
    return [Moments.of(channel) for channel in image.channels]


def ssim_y(image: NDArray[np.uint8], reference: NDArray[np.uint8], border: int = 0) -> float:
    """SSIM-Y of two images, as `luma_ssim`.

    Args:
        image: uint8 (H, W, 3), RGB.
        reference: The same.
        border: Pixels left out on each side first.

    Raises:
        TocsrError: The images are not a pair, or smaller than a window.
    """
    return luma_ssim(*pair(image, reference, border))
