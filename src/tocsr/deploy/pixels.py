"""What is done to pixels between a file and RGB: turned, brought to 8 bits, inks to colours.

Legend: H W pixels, C channels.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms

from tocsr.deploy.metadata import DAMAGED

if TYPE_CHECKING:
    from numpy.typing import NDArray


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W, C) upright, from how EXIF says it is stored, 1 to 8 (EXIF 2.32, 4.6.4)."""
    if orientation > 4:  # rows are columns
        pixels = pixels.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.ascontiguousarray(np.flip(pixels, flips.get(orientation, ())))


def to_8_bits(levels: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 as it is; uint16 divided by 257 and rounded to the nearest, so 65535 is 255."""
    if levels.dtype == np.uint8:
        return levels
    return ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_16_bits(levels: NDArray[Any]) -> NDArray[np.uint16]:
    """uint16 as it is; uint8 times 257, so 255 is 65535."""
    return levels if levels.dtype == np.uint16 else levels.astype(np.uint16) * np.uint16(257)


def luma(rgb: NDArray[Any]) -> NDArray[Any]:
    """(H, W, 3) to (H, W) of the same type, by the weights of ITU-R BT.601."""
    weighted = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.rint(weighted).astype(rgb.dtype)


def cmyk_to_rgb(image: Image.Image) -> Image.Image:
    """SRGB by the profile of the inks; without one that Little CMS reads, by Pillow's rule."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, *DAMAGED):
        converted = None
    return converted or image.convert("RGB")


def fitting_profile(icc: Any, gray: bool) -> bytes | None:
    """The profile where it is one of such colours."""
    space = b"GRAY" if gray else b"RGB "
    return icc if isinstance(icc, bytes) and icc[16:20] == space else None
