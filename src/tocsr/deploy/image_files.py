"""Photos in files: found, read, checked and written whole.

Legend: H W pixels. Images are RGB (H, W, 3) in 0..255 as uint8, or in 0..65535 as uint16 where 16
bits are asked for; alpha is (H, W) of the same type.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from tocsr.deploy.deep_files import is_deep, read_deep, write_deep
from tocsr.deploy.formats import (
    DEEP,
    FORMAT_OF_SUFFIX,
    PILLOW_NAME,
    TRANSPARENT,
    Format,
    readable,
    require_writable,
)
from tocsr.deploy.metadata import DAMAGED, orientation, resolution, upright_exif
from tocsr.deploy.pixels import cmyk_to_rgb, fitting_profile, luma, to_8_bits, turned
from tocsr.errors import TocsrError, one_line
from tocsr.files import whole_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_HOLDS_GRAY = ("png", "jpg", "tif", "bmp")  # the others make RGB of it
_MAX_JPEG_EXIF = 65533  # bytes of one JPEG segment
GRAY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N")
_COLOR = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "CMYK")


@dataclass(frozen=True, eq=False)
class Picture:
    """What a file holds.

    Args:
        rgb: uint8 or uint16 (H, W, 3).
        alpha: (H, W) of the same type, 0 is transparent; None where there is no transparency.
        exif: The EXIF block with orientation 1, or None.
        icc: The profile of the colours, or None; written where it fits what is written.
        dpi: Dots per inch, across and down, or None.
        gray: Whether the file held gray alone, and its result is to hold gray alone.
    """

    rgb: NDArray[Any]
    alpha: NDArray[Any] | None = None
    exif: bytes | None = None
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    gray: bool = False

    @property
    def is_deep(self) -> bool:
        """Whether it has 16 bits per channel."""
        return self.rgb.dtype == np.uint16


def list_images(path: Path) -> list[Path]:
    """The image files below a folder by their suffix, sorted; a file, found or not, is itself.

    Hidden files and folders and unfinished `.part` files are left out.
    """
    if not path.is_dir():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in FORMAT_OF_SUFFIX
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and file.is_file()
    )


def read_image(path: Path, deep: bool = False) -> Picture:
    """Reads an image file; see `decode_image`.

    Raises:
        TocsrError: No such file, or what `decode_image` refuses.
    """
    try:
        with path.open("rb") as file:
            return decode_image(file, str(path), deep)
    except OSError as error:
        raise TocsrError(f"cannot read {path}: {error.strerror}") from error


def decode_image(file: BinaryIO, name: str, deep: bool = False) -> Picture:
    """Reads a PNG, JPEG, WebP, TIFF, BMP, AVIF or HEIC image, turned upright as its EXIF says.

    Gray, palette and CMYK become RGB, CMYK by its profile where it has one.

    Args:
        file: Its bytes; it must be able to seek.
        name: What messages call it.
        deep: Whether 16 bits per channel come as uint16; without, as uint8.

    Raises:
        TocsrError: Not one whole still image of these formats, or so many pixels that Pillow takes
            it for a decompression bomb, or a package for its format is missing.
    """
    header = file.read(25)
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # Pillow's words on odd EXIF
            with Image.open(file, formats=readable(header)) as image:
                check_still(image, name)
                if deep and is_deep(image, header):
                    return _deep_picture(image, file, name)
                return picture_of(image, name)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise TocsrError(
            f"{name} must hold at most {Image.MAX_IMAGE_PIXELS} pixels, it has more",
            "crop or shrink it",
        ) from error
    except UnidentifiedImageError as error:
        held = "something else" if header else "an empty file"
        raise TocsrError(
            f"{name} must be a PNG, JPEG, WebP, TIFF, BMP, AVIF or HEIC image, got {held}"
        ) from error
    except DAMAGED as error:
        raise TocsrError(f"{name} is damaged or cut short: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return one_line(error) or type(error).__name__


def check_still(image: Image.Image, name: str) -> None:
    """Raises a usage error unless a file holds one image, of at least one pixel."""
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > 1 and image.format not in ("MPO", "HEIF"):  # previews behind a phone's photo
        held = "a file of {} pages" if image.format == "TIFF" else "an animation of {} frames"
        raise TocsrError(
            f"{name} must hold one image, got {held.format(num_frames)}",
            "save the frame you want",
        )
    if 0 in image.size:
        raise TocsrError(f"{name} must hold at least one pixel, got {image.width} x {image.height}")


def check_mode(image: Image.Image, name: str) -> None:
    """Raises a usage error unless the pixels are gray, RGB, CMYK or a palette."""
    if image.mode not in (*GRAY_MODES, *_COLOR):
        raise TocsrError(
            f"{name} must hold gray, RGB, CMYK or a palette of whole numbers up to 16 bits, "
            f"got pixels of mode {image.mode}",
            "save it as RGB",
        )


def picture_of(image: Image.Image, name: str) -> Picture:
    """What Pillow has opened, 8 bits per channel, upright; raises what `check_mode` does."""
    check_mode(image, name)
    image.load()
    turn = orientation(image)  # Pillow has turned a TIFF by now, and says so
    is_gray, icc = image.mode in GRAY_MODES, image.info.get("icc_profile")
    exif, dpi = upright_exif(image), resolution(image)
    if image.mode == "CMYK":
        flat, icc = cmyk_to_rgb(image), None  # the profile of inks does not fit RGB values
    elif image.mode.startswith("I"):
        flat = Image.fromarray(to_8_bits(np.asarray(image).astype(np.uint16))).convert("RGB")
    else:
        flat = image.convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = turned(np.asarray(flat), turn)
    alpha = pixels[:, :, 3] if pixels.shape[2] == 4 else None
    return Picture(pixels[:, :, :3], alpha, exif, fitting_profile(icc, is_gray), dpi, is_gray)


def _deep_picture(image: Image.Image, file: BinaryIO, name: str) -> Picture:
    """16 bits per channel; Pillow has read what stands around the pixels."""
    turn, exif, dpi = orientation(image), upright_exif(image), resolution(image)
    icc, file_format = image.info.get("icc_profile"), str(image.format)
    pixels = turned(read_deep(file, file_format, name), turn)
    is_gray = pixels.shape[2] < 3
    rgb = pixels[:, :, [0, 0, 0]] if is_gray else pixels[:, :, :3]
    alpha = pixels[:, :, -1] if pixels.shape[2] in (2, 4) else None
    return Picture(rgb, alpha, exif, fitting_profile(icc, is_gray), dpi, is_gray)


def write_image(path: Path, picture: Picture, file_format: Format, quality: int = 95) -> None:
    """Writes a file that appears whole or not at all; see `encode_image`.

    Raises:
        TocsrError: What `encode_image` refuses.
        OSError: The disk refuses it.
    """
    content = encode_image(picture, file_format, quality, str(path))
    with whole_file(path) as part:
        part.write_bytes(content)


def encode_image(
    picture: Picture, file_format: Format, quality: int = 95, name: str = "the result"
) -> memoryview:
    """The bytes of a file, with EXIF block, profile and resolution where the format has them.

    Args:
        picture: What to write. JPEG and BMP have no transparency: there it is laid on white. Of 16
            bits per channel PNG and TIFF alone keep more than 8.
        file_format: How to write it.
        quality: Of JPEG (colours at full resolution), lossy WebP, AVIF and HEIC, 1..100.
        name: What messages call it.

    Raises:
        TocsrError: The format refuses the picture, or a package for it is missing.
    """
    require_writable(file_format)
    buffer = io.BytesIO()
    icc = fitting_profile(picture.icc, picture.gray)
    if picture.gray and file_format not in _HOLDS_GRAY:
        icc = None
    try:
        if picture.is_deep and file_format in DEEP:
            pillow_name = PILLOW_NAME[file_format]
            write_deep(
                buffer, _channels(picture, file_format), pillow_name, picture.exif, icc, picture.dpi
            )
        else:
            options = _options(picture, file_format, quality)
            if icc:
                options["icc_profile"] = icc
            image = pillow_of(picture, file_format in TRANSPARENT)
            image.save(buffer, format=PILLOW_NAME[file_format], **options)
    except (ValueError, OSError, RuntimeError) as error:  # an encoder's refusal
        raise TocsrError(f"cannot write {name}: {_one_line(error)}") from error
    return buffer.getbuffer()


def _options(picture: Picture, file_format: Format, quality: int) -> dict[str, Any]:
    """What Pillow is told beside the pixels."""
    options: dict[str, Any] = {}
    exif = picture.exif
    if file_format == "jpg":
        options = {"quality": quality, "subsampling": 0}
        exif = exif if exif and len(exif) <= _MAX_JPEG_EXIF else None
    elif file_format in ("webp", "avif", "heic"):
        options = {"quality": quality}
    elif file_format == "tif":
        options = {"compression": "tiff_adobe_deflate"}
    if exif and file_format != "bmp":
        options["exif"] = exif
    if picture.dpi:
        options["dpi"] = picture.dpi
    return options


def pillow_of(picture: Picture, transparent: bool) -> Image.Image:
    """The picture as Pillow's, its transparency kept or laid on white."""
    image = Image.fromarray(to_8_bits(picture.rgb))
    if picture.alpha is not None:
        alpha = Image.fromarray(to_8_bits(picture.alpha))
        if transparent:
            image.putalpha(alpha)
        else:
            white = Image.new("RGB", image.size, "white")
            white.paste(image, mask=alpha)
            image = white
    if picture.gray:
        image = image.convert("LA" if image.mode == "RGBA" else "L")
    return image


def _channels(picture: Picture, file_format: Format) -> NDArray[Any]:
    """(H, W, C) with the colours that are to be written and the alpha."""
    colors = picture.rgb
    if picture.gray:
        levels = luma(colors)[:, :, None]
        # Pillow and others know no TIFF of gray and alpha in 16 bits
        as_rgb = file_format == "tif" and picture.alpha is not None
        colors = levels.repeat(3, axis=2) if as_rgb else levels
    return colors if picture.alpha is None else np.dstack([colors, picture.alpha])
