"""Colours of a result brought back to its photo's, over the whole image and never per tile.

Not in the paper: the wavelet and AdaIN corrections of StableSR (Wang et al., IJCV 2024), which
most one-step methods apply to their results.

Legend: H W pixels of the result, h w of the photo. Images are uint8 or uint16 (H, W, 3), and a
result has the photo's type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ColorFix = Literal["none", "wavelet", "adain"]
_DILATIONS = (1, 2, 4, 8, 16)
_REACH = sum(_DILATIONS)  # pixels to either side that the low-pass looks at
_BICUBIC_REACH = 3  # pixels of the photo around those that are enlarged
_STRIP = 256  # rows at a time; no more floats than these are held


def color_fixed(
    result: NDArray[Any], photo: NDArray[Any], how: ColorFix, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """The result with the photo's colours.

    Args:
        result: (H, W, 3).
        photo: (h, w, 3), what it was made from.
        how: `wavelet` takes all that is coarser than some 30 pixels of the result from the bicubic
            enlargement of the photo; `adain` gives each channel the photo's mean and standard
            deviation; `none` gives back the result.
        out: Where the result goes, of its shape and type, and not `result` itself.
    """
    if how == "none":
        return result
    out = np.empty_like(result) if out is None else out
    (_wavelet if how == "wavelet" else _adain)(result, photo, out)
    return out


def _wavelet(result: NDArray[Any], photo: NDArray[Any], out: NDArray[Any]) -> None:
    """Result - low(result) + low(enlarged photo), as result + low(enlarged photo - result)."""
    height, width, _ = result.shape
    scale, limit = photo.shape[0] / height, np.iinfo(result.dtype).max
    for rows in _strips(height):
        begin, end = max(0, rows.start - _REACH), min(height, rows.stop + _REACH)
        coarse = _enlarged_rows(photo, begin * scale, end * scale, (width, end - begin))
        low = low_pass(coarse - result[begin:end])
        low = low[rows.start - begin :][: rows.stop - rows.start]
        out[rows] = _levels(result[rows] + low, limit)


def _enlarged_rows(
    photo: NDArray[Any], begin: float, end: float, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Rows `begin` to `end` of the photo at `size` (W, H), bicubic; floats of no other rows."""
    top = max(0, math.floor(begin) - _BICUBIC_REACH)
    strip = photo[top : math.ceil(end) + _BICUBIC_REACH].astype(np.float32)
    box = (0, begin - top, photo.shape[1], end - top)
    planes = (Image.fromarray(strip[:, :, channel]) for channel in range(3))
    return np.stack(
        [np.asarray(plane.resize(size, Image.Resampling.BICUBIC, box)) for plane in planes], axis=-1
    )


def low_pass(image: NDArray[Any]) -> NDArray[Any]:
    """Five levels of the a-trous wavelet: the kernel (1, 2, 1) / 4 on each axis, ever wider apart.

    Args:
        image: (H, W, C), of floats; its border pixels are repeated at each level.
    """
    for dilation in _DILATIONS:
        for axis in (0, 1):
            widths = [(0, 0)] * image.ndim
            widths[axis] = (dilation, dilation)
            padded = np.moveaxis(np.pad(image, widths, mode="edge"), axis, 0)
            middle = padded[dilation:-dilation]
            smooth = (padded[: -2 * dilation] + 2 * middle + padded[2 * dilation :]) / 4
            image = np.moveaxis(smooth, 0, axis)
    return image


def _adain(result: NDArray[Any], photo: NDArray[Any], out: NDArray[Any]) -> None:
    (mean, deviation), (wanted_mean, wanted) = _statistics(result), _statistics(photo)
    gain = np.where(deviation > 0, wanted / np.where(deviation > 0, deviation, 1), 1)
    limit = np.iinfo(result.dtype).max
    for rows in _strips(result.shape[0]):
        out[rows] = _levels((result[rows] - mean) * gain + wanted_mean, limit)


def _statistics(image: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel."""
    total, squares = np.zeros(3), np.zeros(3)
    for rows in _strips(image.shape[0]):
        strip = image[rows].astype(np.float64)
        total += strip.sum((0, 1))
        squares += (strip**2).sum((0, 1))
    count = image.shape[0] * image.shape[1]
    mean = total / count
    return mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


def _strips(height: int) -> Iterator[slice]:
    for top in range(0, height, _STRIP):
        yield slice(top, min(top + _STRIP, height))


def _levels(values: NDArray[Any], limit: int) -> NDArray[Any]:
    return np.clip(np.rint(values), 0, limit)
