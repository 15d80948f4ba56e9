"""Peak signal-to-noise ratio, of luma and of RGB."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tocsr.deploy.metrics.color import Y_WEIGHTS
from tocsr.deploy.metrics.subject import Subject, pair

if TYPE_CHECKING:
    from numpy.typing import NDArray


def psnr(apart: NDArray[np.float32]) -> float:
    """PSNR = 10 log10(255^2 / mean((x - y)^2)), in dB; higher is better.

    Squares are summed along rows in single precision and then in double, which is right to 1e-5 dB.

    Args:
        apart: x - y, (rows, columns), in [-255, 255].

    Returns:
        The ratio; infinite where both are equal.
    """
    mse = float(np.vecdot(apart, apart).sum(dtype=np.float64)) / apart.size
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def luma_psnr(image: Subject, reference: Subject) -> float:
    """PSNR of Y, which is not rounded.

    The peak is 255 although Y spans 16..235, as in the super-resolution literature since Timofte
    et al., A+, ACCV 2014. Y is linear, so it is taken of the difference of the images.
    """
    weights = np.asarray(Y_WEIGHTS, dtype=np.float32)
    luma = _apart(image, reference).reshape(-1, 3) @ weights
    return psnr(luma.reshape(image.size))


def rgb_psnr(image: Subject, reference: Subject) -> float:
    """PSNR of R, G and B, the mean squared error taken over all three."""
    return psnr(_apart(image, reference).reshape(image.size[0], -1))


def _apart(image: Subject, reference: Subject) -> NDArray[np.float32]:
    """The difference in levels, (H, W, 3)."""
    return np.subtract(image.rgb, reference.rgb, dtype=np.int16).astype(np.float32)


def psnr_y(image: NDArray[np.uint8], reference: NDArray[np.uint8], border: int = 0) -> float:
    """PSNR-Y of two images, as `luma_psnr`.

    Args:
        image: uint8 (H, W, 3), RGB.
        reference: The same.
        border: Pixels left out on each side.
    """
    return luma_psnr(*pair(image, reference, border))
