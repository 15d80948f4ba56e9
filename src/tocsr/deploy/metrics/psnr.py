"""Peak signal-to-noise ratio, of luma and of RGB."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tocsr.deploy.metrics.subject import Subject, pair

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def psnr(values: Tensor, reference: Tensor) -> float:
    """PSNR = 10 log10(255^2 / mean((x - y)^2)), in dB; higher is better.

    Args:
        values: Any shape, in [0, 255], float64.
        reference: The same.

    Returns:
        The ratio; infinite where both are equal.
    """
    mse = float((values - reference).square_().mean())
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def luma_psnr(image: Subject, reference: Subject) -> float:
    """PSNR of Y, which is not rounded.

    The peak is 255 although Y spans 16..235, as in the super-resolution literature since Timofte
    et al., A+, ACCV 2014.
    """
    return psnr(image.y, reference.y)


def rgb_psnr(image: Subject, reference: Subject) -> float:
    """PSNR of R, G and B, the mean squared error taken over all three."""
    return psnr(image.channels, reference.channels)


def psnr_y(image: NDArray[np.uint8], reference: NDArray[np.uint8], border: int = 0) -> float:
    """PSNR-Y of two images, as `luma_psnr`.

    Args:
        image: uint8 (H, W, 3), RGB.
        reference: The same.
        border: Pixels left out on each side.
    """
    return luma_psnr(*pair(image, reference, border))
