"""Photos that the memory does not hold: their pixels lie in files, read and written in strips.

libvips reads and writes a few rows at a time. Between, the pixels of a photo and of its result are
arrays in files without a name, in the folder of the result, which are gone when the program is.

Legend: H W pixels.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tocsr.deploy.deep_files import (
    SIGNATURE_AND_IHDR,
    is_deep,
    png_metadata,
    require_deep,
    write_tiff,
)
from tocsr.deploy.formats import readable
from tocsr.deploy.image_files import GRAY_MODES, Picture, check_mode, check_still, encode_image
from tocsr.deploy.metadata import DAMAGED, orientation, resolution, upright_exif, upright_size
from tocsr.deploy.pixels import fitting_profile, luma, to_8_bits, to_16_bits
from tocsr.errors import ExitCode, TocsrError, one_line
from tocsr.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tocsr.deploy.formats import Format

# (shape, type) -> an array to fill
Allocate = Callable[[tuple[int, ...], Any], NDArray[Any]]

_LIMIT = threading.Lock()  # what Pillow opens is one setting for all threads
STRIP = 256  # rows read at a time
MAX_PIXELS = 4 * 10**8  # more than any camera's; a header that says more is taken for a bomb
_READ = ("PNG", "JPEG", "TIFF", "WEBP")
_WRITTEN = ("png", "jpg", "tif")  # the others hold no such sides


def _vips() -> Any:
    """The package pyvips.

    Raises:
        TocsrError: It is not installed.
    """
    try:
        return import_module("pyvips")
    except (ModuleNotFoundError, OSError) as error:  # the package, or the library it binds
        raise TocsrError(
            "photos that the memory does not hold need the package pyvips, which is not installed",
            "run: pip install 'tocsr[huge]'",
            ExitCode.RESOURCES,
        ) from error


def scratch(shape: tuple[int, ...], dtype: Any, folder: Path) -> NDArray[Any]:
    """An array of zeros in a file without a name.

    Args:
        shape: Its shape.
        dtype: Its type.
        folder: Of the disk that holds it.

    Raises:
        OSError: The disk has no room for it; said here and not where it is written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, dtype, "r+" if file.seek(0, 2) else "w+", shape=shape)


@contextmanager
def _any_size() -> Iterator[None]:
    """Pillow opens headers of any size inside; it is not asked for the pixels."""
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


class Header(NamedTuple):
    """What a file says of its photo.

    Args:
        height: Of the upright photo.
        width: Likewise.
        deep: Whether it has 16 bits per channel.
        in_strips: Whether it is of a format that libvips reads wherever it is, and no bomb.
    """

    height: int
    width: int
    deep: bool
    in_strips: bool


def header(path: Path) -> Header | None:
    """The header of a photo of any size; None where Pillow reads none."""
    try:
        with _any_size(), warnings.catch_warnings(action="ignore"), path.open("rb") as file:
            first = file.read(25)
            with Image.open(path, formats=readable(first)) as image:
                height, width = upright_size(image)
                in_strips = image.format in _READ and height * width <= MAX_PIXELS
                return Header(height, width, is_deep(image, first), in_strips)
    except (*DAMAGED, TocsrError):
        return None


def read_huge(path: Path, deep: bool | None, new: Allocate) -> Picture:
    """Reads a photo in strips.

    Args:
        path: The file.
        deep: Whether its pixels come as uint16; None as the file holds them.
        new: What makes the array that they go to.

    Raises:
        TocsrError: It is damaged, has transparency or inks, or pyvips is missing.
        OSError: The disk has no room for its pixels.
    """
    vips = _vips()
    with _any_size(), warnings.catch_warnings(action="ignore"), Image.open(path) as image:
        check_still(image, str(path))
        check_mode(image, str(path))
        turn, gray, icc = (
            orientation(image),
            image.mode in GRAY_MODES,
            image.info.get("icc_profile"),
        )
        exif, dpi = upright_exif(image), resolution(image)
        opaque = not image.has_transparency_data and image.mode != "CMYK"
    if not opaque:
        raise TocsrError(
            f"{path} must be opaque gray or RGB, as the memory does not hold it",
            "crop or flatten it",
            ExitCode.RESOURCES,
        )
    try:
        access = "sequential" if turn == 1 else "random"
        stored = vips.Image.new_from_file(str(path), access=access, fail_on="error")
        rgb = _pixels(vips, stored.autorot(), deep, new)
    except vips.Error as error:
        raise TocsrError(f"{path} is damaged or cut short: {one_line(error)}") from error
    return Picture(rgb, None, exif, fitting_profile(icc, gray), dpi, gray)


def _pixels(vips: Any, image: Any, deep: bool | None, new: Allocate) -> NDArray[Any]:
    """The pixels of an open image, (H, W, 3)."""
    stored = np.uint16 if image.format == "ushort" else np.uint8
    sixteen = stored is np.uint16 if deep is None else deep
    rgb = new((image.height, image.width, 3), np.uint16 if sixteen else np.uint8)
    region = vips.Region.new(image)
    for top in range(0, image.height, STRIP):
        rows = min(STRIP, image.height - top)
        strip = np.frombuffer(region.fetch(0, top, image.width, rows), stored)
        strip = strip.reshape(rows, image.width, image.bands)
        rgb[top : top + rows] = to_16_bits(strip) if sixteen else to_8_bits(strip)
    return rgb


def check_huge(file_format: Format) -> None:
    """Raises an error where a result of this format cannot be written in strips; before the work.

    Raises:
        TocsrError: The format does not hold such sides (RESOURCES); a package is missing.
    """
    if file_format not in _WRITTEN:
        raise TocsrError(
            f"format must be one of {', '.join(_WRITTEN)} where the memory does not hold the "
            f"result, got {file_format}",
            "choose --format png",
            ExitCode.RESOURCES,
        )
    _vips()
    if file_format == "tif":
        require_deep("TIFF")


def write_huge(path: Path, picture: Picture, file_format: Format, quality: int = 95) -> None:
    """Writes a picture whose pixels may lie in a file; otherwise as `image_files.write_image`.

    Raises:
        TocsrError: It can be written in memory alone, or a package is missing.
        OSError: The disk refuses it.
    """
    check_huge(file_format)
    pixels = _gray(picture.rgb, path.parent) if picture.gray else picture.rgb
    with whole_file(path) as part:
        if file_format == "tif":
            with part.open("wb") as file:
                write_tiff(file, pixels, picture.exif, picture.icc, picture.dpi)
            return
        bare = part.with_suffix(".bare.part")
        try:
            _write_pixels(bare, pixels, file_format, quality)
            with bare.open("rb") as source, part.open("wb") as file:
                file.write(_beginning(source, picture, file_format))
                shutil.copyfileobj(source, file, 2**24)
        finally:
            bare.unlink(missing_ok=True)


def _gray(rgb: NDArray[Any], folder: Path) -> NDArray[Any]:
    """(H, W, 3) to (H, W, 1), in a file."""
    height, width, _ = rgb.shape
    gray = scratch((height, width, 1), rgb.dtype, folder)
    for top in range(0, height, STRIP):
        gray[top : top + STRIP, :, 0] = luma(rgb[top : top + STRIP])
    return gray


def _write_pixels(path: Path, pixels: NDArray[Any], file_format: Format, quality: int) -> None:
    """A PNG or JPEG of (H, W, 1 or 3) with nothing around the pixels."""
    vips = _vips()
    height, width, channels = pixels.shape
    deep = pixels.dtype == np.uint16
    kind = "ushort" if deep else "uchar"
    image = vips.Image.new_from_memory(pixels.reshape(-1).data, width, height, channels, kind)
    space = ("grey16" if deep else "b-w") if channels == 1 else ("rgb16" if deep else "srgb")
    image = image.copy(interpretation=space)
    try:
        if file_format == "png":
            image.pngsave(str(path), keep="none", filter="all")
        else:
            image.jpegsave(str(path), keep="none", Q=quality, subsample_mode="off")
    except vips.Error as error:  # libvips says that the disk is full in words alone
        raise OSError(errno.EIO, f"libvips cannot write it: {one_line(error)}") from error


def _beginning(bare: BinaryIO, picture: Picture, file_format: Format) -> bytes:
    """A file up to its pixels with what stands around them; what it replaces is read over."""
    if file_format == "png":
        start = bare.read(SIGNATURE_AND_IHDR)
        while (chunk := bare.read(8))[4:] != b"IDAT":  # length, name
            bare.seek(int.from_bytes(chunk[:4]) + 4, os.SEEK_CUR)
        bare.seek(-8, os.SEEK_CUR)
        return start + png_metadata(picture.exif, picture.icc, picture.dpi)
    of_one_pixel = bytes(encode_image(replace(picture, rgb=picture.rgb[:1, :1]), "jpg"))
    bare.seek(_end_of_metadata(bare.read(2**10)))
    return of_one_pixel[: _end_of_metadata(of_one_pixel)]


def _end_of_metadata(jpeg: bytes) -> int:
    """Where the application segments and comments of a JPEG end (ITU-T T.81, B.1.1.4)."""
    place = 2
    while jpeg[place + 1] >> 4 == 0xE or jpeg[place + 1] == 0xFE:
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4])
    return place
