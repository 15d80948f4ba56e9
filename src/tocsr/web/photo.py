"""What the server looks at before it decodes a photo, and the pictures for its page."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from PIL import Image

from tocsr.deploy.formats import readable
from tocsr.deploy.image_files import read_image, write_image
from tocsr.deploy.metadata import DAMAGED, upright_size
from tocsr.deploy.resizing import resized
from tocsr.errors import TocsrError

if TYPE_CHECKING:
    from pathlib import Path

    from tocsr.deploy.image_files import Picture
    from tocsr.deploy.resizing import Size
    from tocsr.deploy.upscale_jobs import Job

BEFORE, AFTER = "before.jpg", "after.jpg"
_SHOWN = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "AVIF", "png", "jpg", "webp", "bmp", "avif")
_MAX_SHOWN_PIXELS = 2**26  # of a result; a browser holds four bytes of each
_PREVIEW_SIDE = 4096


class RequestError(TocsrError):
    """Something that the server does not do.

    Args:
        status: The HTTP status.
        message: As of `TocsrError`.
        hint: Likewise.
    """

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.status = status


def check_photo(path: Path, max_pixels: int) -> tuple[bool, Size]:
    """Reads the header of a photo's file, and not its pixels.

    Returns:
        Whether a browser can show the format, and (H, W) as the photo is seen.

    Raises:
        TocsrError: No image of a format that is read (415), or more than `max_pixels` (413).
    """
    try:
        with path.open("rb") as file:
            header = file.read(25)
            file.seek(0)
            with Image.open(file, formats=readable(header)) as image:
                height, width = upright_size(image)
                shown = image.format in _SHOWN
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestError(
            413, f"a photo must have at most {max_pixels} pixels, it has more"
        ) from error
    except DAMAGED as error:
        raise RequestError(
            415, "the photo must be a PNG, JPEG, WebP, TIFF, BMP, AVIF or HEIC image, it is not"
        ) from error
    if height * width > max_pixels:
        raise RequestError(
            413,
            f"a photo must have at most {max_pixels} pixels, this one has {width} x {height}",
            "crop or shrink it",
        )
    return shown, (height, width)


def write_previews(files: Job, result_size: Size, photo_is_shown: bool) -> None:
    """Writes a JPEG beside a photo, and beside its result, where a browser cannot show the file.

    Args:
        files: The photo and its result, both written.
        result_size: (H, W) of the result.
        photo_is_shown: Whether a browser can show the photo.
    """
    folder = files.target.parent
    if not photo_is_shown:
        _write_preview(folder / BEFORE, read_image(files.source))
    if files.file_format not in _SHOWN or result_size[0] * result_size[1] > _MAX_SHOWN_PIXELS:
        _write_preview(folder / AFTER, read_image(files.target))


def _write_preview(path: Path, picture: Picture) -> None:
    height, width, _ = picture.rgb.shape
    factor = min(1.0, _PREVIEW_SIDE / max(height, width))
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    alpha = None if picture.alpha is None else resized(picture.alpha, size)
    write_image(path, replace(picture, rgb=resized(picture.rgb, size), alpha=alpha), "jpg")
