"""What a file says of its image: the EXIF block, cleaned, and how a result was made."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import TYPE_CHECKING, Any

from PIL import ExifTags, Image

from tocsr import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# What Pillow raises for damaged image data and EXIF blocks; its decoders check little.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    struct.error,
)
# Tags of the 0th IFD that say how the pixels of a TIFF lie in it, or hold what is kept elsewhere:
# XMP, IPTC, Photoshop's block and the profile.
_LAYOUT = (
    *range(254, 260),
    *(262, 263, 266, 273, 277, 278, 279, 280, 281, 284, 317, 320, 322, 323, 324, 325, 330),
    *(332, 334, 336, 338, 339, 340, 341, 347, 529, 530, 531, 532, 700, 33723, 34377, 34675),
)


def orientation(image: Image.Image) -> int:
    """How a file's pixels are to be turned, 1 to 8 as EXIF says; 1 where it does not say."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGED:  # a broken EXIF block must not cost the photo
        return 1
    return value if value in range(1, 9) else 1


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(H, W) of an opened file once it is turned as it says."""
    # Pillow has turned a TIFF's size, and not the others'
    turned = image.format != "TIFF" and orientation(image) > 4
    return (image.width, image.height) if turned else (image.height, image.width)


def upright_exif(image: Image.Image) -> bytes | None:
    """The EXIF block with orientation 1 and without the tags that say the old size and layout."""
    try:
        exif = image.getexif()
        if not exif:
            return None
        for tag in _LAYOUT:
            exif.pop(tag, None)
        if ExifTags.IFD.Exif in exif:
            for size in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight):
                exif.get_ifd(ExifTags.IFD.Exif).pop(size, None)
        exif[ExifTags.Base.Orientation] = 1
        return exif.tobytes()
    except DAMAGED:
        return None


def resolution(image: Image.Image) -> tuple[float, float] | None:
    """Dots per inch, across and down, where a file says them."""
    try:
        across, down = (float(value) for value in image.info.get("dpi", ()))
    except DAMAGED:
        return None
    return (across, down) if all(math.isfinite(v) and v > 0 for v in (across, down)) else None


def model_checksum(folder: Path) -> str:
    """The first 12 digits of the SHA-256 of a model folder's graphs, facts and weights."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        is_of_it = path.suffix in (".onnx", ".xml", ".bin", ".json", ".safetensors")
        if is_of_it and path.name != "manifest.json":  # which says how it was exported
            digest.update(path.relative_to(folder).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def with_history(exif: bytes | None, made: Mapping[str, Any]) -> bytes:
    """The EXIF block with how a result was made, as JSON in the tag ProcessingSoftware.

    Args:
        exif: The photo's, or None.
        made: The options by name.
    """
    block = Image.Exif()
    if exif:
        block.load(exif)
    text = json.dumps({"software": f"tocsr {__version__}", **made})
    block[ExifTags.Base.ProcessingSoftware] = text
    return block.tobytes()


def text_tags(exif: bytes | None) -> dict[int, str]:
    """The texts of the 0th IFD by tag: maker, model, date, artist, how it was made."""
    block = Image.Exif()
    if exif:
        block.load(exif)
    return {tag: value for tag, value in block.items() if isinstance(value, str)}
