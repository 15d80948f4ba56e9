"""Photos in files: found, read, checked and written whole.

Legend: H W pixels. Images are uint8 RGB (H, W, 3) in 0..255, alpha is uint8 (H, W).
"""

from __future__ import annotations

import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tocsr.errors import TocsrError
from tocsr.files import whole_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Format = Literal["png", "jpg", "webp"]

FORMAT_OF_SUFFIX: dict[str, Format] = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".webp": "webp",
}
# The longest side a format can hold; libjpeg stops a little before the 65535 of the standard.
MAX_SIDE: dict[Format, int] = {"png": 2**31 - 1, "jpg": 65500, "webp": 16383}

# What Pillow raises for a damaged file of one of our formats.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)
_DAMAGED_EXIF = (*_DAMAGED, KeyError, TypeError, AttributeError)
_MAX_JPEG_EXIF = 65533  # bytes of one JPEG segment


@dataclass(frozen=True, eq=False)
class Picture:
    """What a file holds.

    Args:
        rgb: uint8 (H, W, 3).
        alpha: uint8 (H, W), 0 is transparent; None where the file has no transparency.
        exif: The EXIF block with orientation 1, or None.
        icc: The profile of the colours in `rgb`, or None.
    """

    rgb: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None = None
    exif: bytes | None = None
    icc: bytes | None = None


def list_images(path: Path) -> list[Path]:
    """The PNG, JPEG and WebP files below a folder, sorted; a file, found or not, is itself.

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


def check_size(height: int, width: int, file_format: Format) -> None:
    """Raises a usage error where a format cannot hold an image; to be called before the work."""
    limit = MAX_SIDE[file_format]
    if max(height, width) > limit:
        raise TocsrError(
            f"{file_format} holds sides of at most {limit} px, the result has {width} x {height}",
            "choose --format png",
        )


def read_image(path: Path) -> Picture:
    """Reads a PNG, JPEG or WebP file, turned upright by its EXIF orientation.

    Gray, palette and CMYK become RGB; 16-bit gray is rounded to 8 bits.

    Raises:
        TocsrError: No such file, not one whole still image of these formats, or so many pixels
            that Pillow takes it for a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # Pillow's words on odd EXIF
            with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
                return _picture(image, path)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise TocsrError(
            f"{path} must hold at most {Image.MAX_IMAGE_PIXELS} pixels, it has more",
            "crop or shrink it",
        ) from error
    except UnidentifiedImageError as error:
        held = "an empty file" if path.stat().st_size == 0 else "something else"
        raise TocsrError(f"{path} must be a PNG, JPEG or WebP image, got {held}") from error
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno:
            raise TocsrError(f"cannot read {path}: {error.strerror}") from error
        raise TocsrError(f"{path} is damaged or cut short: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _picture(image: Image.Image, path: Path) -> Picture:
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > 1 and image.format != "MPO":  # phones put previews behind a JPEG photo
        raise TocsrError(
            f"{path} must hold one image, got an animation of {num_frames} frames",
            "save the frame you want",
        )
    image.load()
    if 0 in image.size:
        raise TocsrError(f"{path} must hold at least one pixel, got {image.width} x {image.height}")
    upright = _turned(image)
    exif, icc = _upright_exif(image), image.info.get("icc_profile")
    is_rgb_profile = isinstance(icc, bytes) and icc[16:20] == b"RGB "
    has_alpha = upright.has_transparency_data and not upright.mode.startswith("I")
    rgba = np.asarray(upright.convert("RGBA")) if has_alpha else None
    return Picture(
        np.asarray(_as_rgb(upright)) if rgba is None else rgba[:, :, :3],
        None if rgba is None else rgba[:, :, 3],
        exif,
        icc if is_rgb_profile else None,  # the profile of gray or CMYK does not fit RGB values
    )


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit gray; 65535 / 257 = 255
        levels = np.clip(np.asarray(image).astype(np.float64) / 257, 0, 255)
        image = Image.fromarray(np.rint(levels).astype(np.uint8))
    return image.convert("RGB")


def _turned(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except _DAMAGED_EXIF:  # a broken EXIF block must not cost the photo
        return image


def _upright_exif(image: Image.Image) -> bytes | None:
    """The EXIF block without the tags that say the old size and orientation."""
    try:
        exif = image.getexif()
        if not exif:
            return None
        for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength):
            exif.pop(tag, None)
        for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight):
            exif.get_ifd(ExifTags.IFD.Exif).pop(tag, None)
        exif[ExifTags.Base.Orientation] = 1
        return exif.tobytes()
    except _DAMAGED_EXIF:
        return None


def write_image(path: Path, picture: Picture, file_format: Format, quality: int = 95) -> None:
    """Writes a file that appears whole or not at all, with its EXIF block and profile.

    Args:
        path: The file; its folder is made when missing.
        picture: What to write. JPEG has no transparency: there it is laid on white.
        file_format: How to write it, whatever the suffix.
        quality: Of JPEG (colours at full resolution) and of lossy WebP, 1..100.

    Raises:
        TocsrError: The format refuses the picture.
        OSError: The disk does.
    """
    exif = picture.exif
    options: dict[str, Any] = {}
    if file_format == "jpg":
        options = {"quality": quality, "subsampling": 0}
        exif = exif if exif and len(exif) <= _MAX_JPEG_EXIF else None
    elif file_format == "webp":
        options = {"quality": quality}
    if exif:
        options["exif"] = exif
    if picture.icc:
        options["icc_profile"] = picture.icc
    image = _on_white(picture) if file_format == "jpg" else _with_alpha(picture)
    with whole_file(path) as part:
        try:
            image.save(part, format="JPEG" if file_format == "jpg" else file_format, **options)
        except ValueError as error:  # an encoder's refusal
            raise TocsrError(f"cannot write {path}: {_one_line(error)}") from error


def _with_alpha(picture: Picture) -> Image.Image:
    image = Image.fromarray(picture.rgb)
    if picture.alpha is not None:
        image.putalpha(Image.fromarray(picture.alpha))
    return image


def _on_white(picture: Picture) -> Image.Image:
    image = Image.fromarray(picture.rgb)
    if picture.alpha is None:
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=Image.fromarray(picture.alpha))
    return white
