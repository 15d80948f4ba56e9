"""PNG and TIFF files of 16 bits per channel, which Pillow reads and writes with 8.

Needs the packages of the extra `io`: imagecodecs, and tifffile for TIFF.

Legend: H W pixels, C channels: gray, gray and alpha, RGB, or RGB and alpha.
"""

from __future__ import annotations

import struct
import zlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from tocsr.deploy.metadata import text_tags
from tocsr.errors import TocsrError

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray
    from PIL import Image

_SEPARATE = 2  # a TIFF's PlanarConfiguration: a plane for each channel
SIGNATURE_AND_IHDR = 8 + 25  # bytes of a PNG before which nothing may stand


def is_deep(image: Image.Image, header: bytes) -> bool:
    """Whether an opened file holds 16 bits per channel.

    Args:
        image: As Pillow opened it.
        header: The file's first 25 bytes; a PNG's bit depth is the last of them.
    """
    if image.format == "PNG":
        return header[24] == 16
    if image.format != "TIFF":
        return False
    bits = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]  # BitsPerSample
    return max(bits if isinstance(bits, tuple) else (bits,)) == 16


def require_deep(name: str) -> None:
    """Raises a usage error where the packages for 16 bits are missing; to be called first."""
    for package in ("imagecodecs", "tifffile"):
        _package(package, name)


def _package(package: str, name: str) -> Any:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise TocsrError(
            f"{name} with 16 bits per channel needs the package {package}, it is not installed",
            "run: pip install 'tocsr[io]', or choose --depth 8",
        ) from error


def read_deep(file: BinaryIO, file_format: str, name: str) -> NDArray[np.uint16]:
    """The pixels of a file that `is_deep`, not turned: uint16 (H, W, C).

    Args:
        file: Anywhere in it.
        file_format: PNG or TIFF.
        name: What messages call it.

    Raises:
        TocsrError: A package is missing, or a TIFF of other colours than gray and RGB.
    """
    require_deep(name)
    file.seek(0)
    if file_format == "PNG":
        pixels = import_module("imagecodecs").png_decode(file.read())
        return pixels[:, :, None] if pixels.ndim == 2 else pixels
    with import_module("tifffile").TiffFile(file) as tiff:
        page = tiff.pages[0]
        pixels = page.asarray()
        colors = page.photometric.name
        if page.planarconfig == _SEPARATE and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    known = {"MINISBLACK": (1, 2), "MINISWHITE": (1, 2), "RGB": (3, 4)}
    if pixels.dtype != np.uint16 or pixels.shape[2] not in known.get(colors, ()):
        raise TocsrError(
            f"{name} must hold gray or RGB in whole numbers where it has 16 bits per channel, got "
            f"{colors} with {pixels.shape[2]} channels of {pixels.dtype}",
            "save it as RGB",
        )
    if colors == "MINISWHITE":
        pixels[:, :, 0] = 65535 - pixels[:, :, 0]
    return pixels


def write_deep(
    file: BinaryIO,
    pixels: NDArray[np.uint16],
    file_format: str,
    exif: bytes | None,
    icc: bytes | None,
    dpi: tuple[float, float] | None,
) -> None:
    """Writes a file of 16 bits per channel.

    Args:
        file: To write to.
        pixels: uint16 (H, W, C), RGB and perhaps alpha, or gray and perhaps alpha.
        file_format: PNG or TIFF. Of an EXIF block a TIFF takes the texts of its main directory.
        exif: The EXIF block, or None.
        icc: The profile, or None.
        dpi: Dots per inch, across and down, or None.
    """
    require_deep(file_format)
    if file_format == "PNG":
        flat = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
        data = import_module("imagecodecs").png_encode(np.ascontiguousarray(flat))
        file.write(data[:SIGNATURE_AND_IHDR])
        file.write(png_metadata(exif, icc, dpi))
        file.write(memoryview(data)[SIGNATURE_AND_IHDR:])
        return
    write_tiff(file, pixels, exif, icc, dpi)


def write_tiff(
    file: BinaryIO,
    pixels: NDArray[Any],
    exif: bytes | None,
    icc: bytes | None,
    dpi: tuple[float, float] | None,
) -> None:
    """Writes a TIFF, 64 rows at a time, as BigTIFF where it is large; see `write_deep`.

    Args:
        file: To write to.
        pixels: uint8 or uint16 (H, W, C), RGB and perhaps alpha, or gray and perhaps alpha.
        exif: The EXIF block, or None; the texts of its main directory are written.
        icc: The profile, or None.
        dpi: Dots per inch, across and down, or None.
    """
    has_alpha = pixels.shape[2] in (2, 4)
    is_gray = pixels.shape[2] < 3
    import_module("tifffile").imwrite(
        file,
        pixels[:, :, 0] if pixels.shape[2] == 1 else pixels,
        photometric="minisblack" if is_gray else "rgb",
        planarconfig=None if pixels.shape[2] == 1 else "contig",
        extrasamples=["unassalpha"] if has_alpha else None,
        compression="zlib",
        predictor=True,
        rowsperstrip=64,
        iccprofile=icc,
        resolution=dpi,
        resolutionunit="inch" if dpi else None,
        metadata=None,
        software=False,
        extratags=[
            (tag, "s", 0, text.encode("ascii", "replace").decode(), True)
            for tag, text in text_tags(exif).items()
        ],
    )


def png_metadata(exif: bytes | None, icc: bytes | None, dpi: tuple[float, float] | None) -> bytes:
    """The chunks iCCP, pHYs and eXIf (PNG specification, third edition, 11.3)."""
    chunks = b""
    if icc:
        chunks += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc))
    if dpi:
        across, down = (round(value / 0.0254) for value in dpi)  # per metre
        chunks += _chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
    if exif:
        chunks += _chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    return chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)
