"""Luma of RGB images, by the two definitions that metrics use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Y_WEIGHTS = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # of R, G and B in Y of Y'CbCr


def rgb_to_y(image: NDArray[Any]) -> NDArray[np.float64]:
    """Y of Y'CbCr by ITU-R BT.601 in studio swing, as MATLAB's `rgb2ycbcr`, but not rounded.

    Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255

    Args:
        image: (H, W, 3), RGB in [0, 255].

    Returns:
        (H, W) in [16, 235], float64.

    Example:
        >>> float(rgb_to_y(np.full((1, 1, 3), 255))[0, 0])  # 16 + 65.481 + 128.553 + 24.966
        235.0
    """
    luma = _weighted(image, Y_WEIGHTS)
    luma += 16
    return luma


def rgb_to_gray(image: NDArray[Any]) -> NDArray[np.float64]:
    """Y of YIQ, the luma of BT.601 in full swing, as MATLAB's `rgb2gray`, but not rounded.

    Y = 0.299 R + 0.587 G + 0.114 B

    Args:
        image: (H, W, 3), RGB in [0, 255].

    Returns:
        (H, W) in [0, 255], float64.

    Example:
        >>> round(float(rgb_to_gray(np.array([[[0, 255, 0]]]))[0, 0]), 3)  # 0.587 * 255
        149.685
    """
    return _weighted(image, (0.299, 0.587, 0.114))


def _weighted(image: NDArray[Any], weights: tuple[float, float, float]) -> NDArray[np.float64]:
    """Red, green and blue in this order, so that what lies at half a level is rounded one way."""
    total = np.multiply(image[..., 0], weights[0], dtype=np.float64)
    for channel in (1, 2):  # added in place: fresh memory takes several times as long
        total += np.multiply(image[..., channel], weights[channel], dtype=np.float64)
    return total
