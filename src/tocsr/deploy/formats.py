"""The formats of image files: their names, what they can hold, and what reads and writes them."""

from __future__ import annotations

from importlib import import_module
from typing import Literal

from PIL import features

from tocsr.errors import TocsrError

Format = Literal["png", "jpg", "webp", "tif", "bmp", "avif", "heic"]

FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".webp": "webp",
    ".tif": "tif",
    ".tiff": "tif",
    ".bmp": "bmp",
    ".avif": "avif",
    ".heic": "heic",
    ".heif": "heic",
}
PILLOW_NAME: dict[Format, str] = {
    "png": "PNG",
    "jpg": "JPEG",
    "webp": "WEBP",
    "tif": "TIFF",
    "bmp": "BMP",
    "avif": "AVIF",
    "heic": "HEIF",
}
# The longest side a format can hold. libjpeg stops a little before the 65535 of the standard;
# libavif reads no more than this by default; HEVC's highest level has pictures of 16888 at most.
MAX_SIDE: dict[Format, int] = {
    "png": 2**31 - 1,
    "jpg": 65500,
    "webp": 16383,
    "tif": 2**31 - 1,
    "bmp": 2**31 - 1,
    "avif": 32768,
    "heic": 16384,
}
# Bytes of pixels in formats whose offsets have 32 bits, with room for what else a file holds.
MAX_BYTES: dict[Format, int] = {"tif": 2**32 - 2**24, "bmp": 2**32 - 2**24}
DEEP: tuple[Format, ...] = ("png", "tif")  # those that hold 16 bits per channel
TRANSPARENT: tuple[Format, ...] = ("png", "webp", "tif", "avif", "heic")


def check_size(height: int, width: int, file_format: Format, pixel_bytes: int = 4) -> None:
    """Raises a usage error where a format cannot hold an image; to be called before the work."""
    limit = MAX_SIDE[file_format]
    if max(height, width) > limit:
        raise TocsrError(
            f"{file_format} holds sides of at most {limit} px, the result has {width} x {height}",
            "choose --format png",
        )
    limit = MAX_BYTES.get(file_format, 0)
    if limit and height * width * pixel_bytes > limit:
        raise TocsrError(
            f"{file_format} holds at most {limit // pixel_bytes} pixels of {pixel_bytes} bytes, "
            f"the result has {width} x {height}",
            "choose --format png",
        )


def readable(header: bytes) -> tuple[str, ...]:
    """Pillow's names of the formats that a file may be of; loads what reads HEIC if it is that.

    Args:
        header: The file's first 12 bytes.

    Raises:
        TocsrError: A HEIC file, and no package that reads it.
    """
    names = ["PNG", "JPEG", "WEBP", "TIFF", "BMP"]
    if features.check("avif"):
        names.append("AVIF")
    if header[4:11] in (b"ftyphei", b"ftyphev") or header[4:12] in (b"ftypmif1", b"ftypmsf1"):
        _register_heif()
        names.append("HEIF")
    return tuple(names)


def require_writable(file_format: Format) -> None:
    """Raises a usage error where no package writes a format, and loads the one that does."""
    if file_format == "heic":
        _register_heif()
    if file_format == "avif" and not features.check("avif"):
        raise TocsrError(
            "AVIF needs a Pillow that was built with it, this one was not",
            "run: pip install --upgrade pillow",
        )


def _register_heif() -> None:
    try:
        import_module("pillow_heif").register_heif_opener()
    except ModuleNotFoundError as error:
        raise TocsrError(
            "HEIC needs the package pillow-heif, which is not installed",
            "run: pip install 'tocsr[heif]'",
        ) from error
