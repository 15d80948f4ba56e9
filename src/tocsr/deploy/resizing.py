"""Sizes of results, and the way there: passes of the network, and a resampler for the rest.

Legend: H W pixels, C channels, n the network's factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tocsr.config import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

MAX_UPSCALE = 8.0
Size = tuple[int, int]


def result_size(
    height: int, width: int, upscale: float, max_width: int = 0, max_height: int = 0
) -> Size:
    """(H, W) of the result; the aspect ratio is kept to the nearest pixel.

    Args:
        height: Of the photo, in pixels.
        width: Likewise.
        upscale: The factor where no side is asked for.
        max_width: The result's width, or with `max_height` the box that it fits inside; 0 is none.
        max_height: The result's height, likewise.

    Raises:
        TocsrError: The sides ask for a factor outside 1..8.
    """
    if not (max_width or max_height):
        return max(1, round(height * upscale)), max(1, round(width * upscale))
    factors = [asked / has for asked, has in ((max_width, width), (max_height, height)) if asked]
    factor = min(factors)
    require(
        1 <= factor <= MAX_UPSCALE,
        f"width and height must ask for a factor of 1 to {MAX_UPSCALE:g}, "
        f"for {width} x {height} pixels they ask for {factor:.3g}",
        "choose another --width or --height",
    )
    return max(1, round(height * factor)), max(1, round(width * factor))


def pass_sizes(start: Size, target: Size, upscale: int) -> list[Size]:
    """What goes into each pass of the network: the photo, then what the rest of the way needs.

    The last pass starts from the target divided by n and the one before from that divided by n,
    so no pass makes more than it must: x8 with n = 4 is x4, down to x2, then x4.

    Args:
        start: (H, W) of the photo.
        target: (H, W) of the result, no side below the photo's.
        upscale: n; with n = 1 the network takes the photo and the resampler does the rest.
    """
    sizes = [target]
    while upscale > 1:
        height, width = (-(-side // upscale) for side in sizes[0])
        if height <= start[0] and width <= start[1]:
            break
        sizes.insert(0, (height, width))
    return [start, *sizes[:-1]]


def enlarged(
    image: NDArray[Any],
    target: Size,
    upscale: int,
    network: Callable[[NDArray[Any], str], NDArray[Any]],
) -> NDArray[Any]:
    """The image at the target size: as many passes of the network as needed, resampled between.

    Args:
        image: uint8 or uint16 (H, W, 3).
        target: As in `pass_sizes`.
        upscale: n.
        network: Makes an image n times larger; its second argument says which pass of how many,
            and is empty where there is but one.

    Returns:
        (*target, 3) of the same type.
    """
    sizes = pass_sizes((image.shape[0], image.shape[1]), target, upscale)
    for number, size in enumerate(sizes, 1):
        which = f" (pass {number} of {len(sizes)})" if len(sizes) > 1 else ""
        image = network(resized(image, size), which)
    return resized(image, target)


def resized(
    image: NDArray[Any], size: Size, method: Image.Resampling = Image.Resampling.LANCZOS
) -> NDArray[Any]:
    """Resampled by Pillow, which averages over all source pixels where it makes smaller.

    Args:
        image: uint8 or uint16, (H, W) or (H, W, C).
        size: (H, W) of the result.
        method: The kernel.

    Returns:
        The same type, rounded to the nearest and clipped.
    """
    if image.shape[:2] == size:
        return image
    result = np.empty((*size, *image.shape[2:]), image.dtype)
    limit = np.iinfo(image.dtype).max
    for plane, out in zip(_planes(image), _planes(result), strict=True):
        source = np.ascontiguousarray(plane, None if plane.dtype == np.uint8 else np.float32)
        values = np.asarray(Image.fromarray(source).resize((size[1], size[0]), method))
        out[:] = values if plane.dtype == np.uint8 else np.clip(np.rint(values), 0, limit)
    return result


def _planes(image: NDArray[Any]) -> list[NDArray[Any]]:
    """Views of the channels."""
    return [image] if image.ndim == 2 else [image[:, :, c] for c in range(image.shape[2])]


def without_hidden_colors(rgb: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Gives fully transparent pixels the colour of visible ones nearby.

    What a file holds there is never seen, often black, and would show as a dark or bright rim once
    the network has mixed it into its neighbours.

    Args:
        rgb: uint8 or uint16 (H, W, 3).
        alpha: (H, W), 0 is transparent.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return rgb
    spread = _spread(rgb.astype(np.float32) * visible[:, :, None], visible)
    return np.where(visible[:, :, None], rgb, np.rint(spread).astype(rgb.dtype))


def _spread(colors: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fills unknown colours, which are 0, from an image of half the size, itself so filled."""
    height, width = known.shape
    if known.all():
        return colors
    odd = ((0, height % 2), (0, width % 2))
    halves = (-(-height // 2), 2, -(-width // 2), 2)
    count = np.pad(known, odd).reshape(halves).sum((1, 3))
    total = np.pad(colors, (*odd, (0, 0))).reshape(*halves, 3).sum((1, 3))
    coarse = _spread(total / np.maximum(count, 1)[:, :, None].astype(np.float32), count > 0)
    near = coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
    return np.where(known[:, :, None], colors, near)
