"""Luma, and the border that a protocol leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tocsr.config import require

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    weights = np.array([65.481, 128.553, 24.966]) / 255
    return 16 + image.astype(np.float64) @ weights


def luma_pair(
    image: NDArray[np.uint8], reference: NDArray[np.uint8], border: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Y of two images without `border` pixels on each side.

    Raises:
        TocsrError: They are not uint8 RGB of one size, or the border leaves nothing.
    """
    for one in (image, reference):
        require(
            one.dtype == np.uint8 and one.ndim == 3 and one.shape[2] == 3,
            f"a metric takes uint8 images (H, W, 3), got {one.dtype} {one.shape}",
        )
    require(
        image.shape == reference.shape,
        f"an image and its reference must have one size, got {image.shape} and {reference.shape}",
    )
    require(
        0 <= border < (min(image.shape[:2]) + 1) // 2,
        f"border must be at least 0 and leave a pixel of {image.shape[:2]}, got {border}",
    )
    height, width, _ = image.shape
    inner = np.s_[border : height - border, border : width - border]
    return rgb_to_y(image[inner]), rgb_to_y(reference[inner])
