"""A sheet of pairs to look at: each low-resolution image enlarged beside its photo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HEADINGS = ("LR, its pixels", "LR, bicubic", "HR")
MAX_ROWS = 6
_CELL, _GAP, _LABEL = 288, 8, 20  # in pixels of the sheet
_LETTERS = 44  # that fit above a cell


def preview(pairs: Sequence[tuple[str, Path, Path]], factor: int) -> Image.Image:
    """The middle of up to `MAX_ROWS` pairs, spread evenly over all.

    Args:
        pairs: Name, low-resolution file and photo of each; at least one.
        factor: Between their sides.
    """
    rows = min(len(pairs), MAX_ROWS)
    chosen = [pairs[number * len(pairs) // rows] for number in range(rows)]
    width = len(HEADINGS) * (_CELL + _GAP) - _GAP
    sheet = Image.new("RGB", (width, rows * (_CELL + _LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, lr, hr) in enumerate(chosen):
        top = row * (_CELL + _LABEL)
        for column, (heading, cell) in enumerate(
            zip(HEADINGS, _cells(lr, hr, factor), strict=True)
        ):
            left = column * (_CELL + _GAP)
            text = f"{name}: {heading}" if column == 0 else heading
            draw.text((left, top + 3), text[-48:], fill="black", font_size=12)
            sheet.paste(cell, (left, top + _LABEL))
    return sheet


def _cells(lr: Path, hr: Path, factor: int) -> list[Image.Image]:
    """The middle of a low-resolution image, enlarged in two ways, and the same of its photo."""
    with Image.open(lr) as image:
        small = _middle(image.convert("RGB"), max(_CELL // factor, 1))
    with Image.open(hr) as image:
        photo = _middle(image.convert("RGB"), max(_CELL // factor, 1) * factor)
    size = (small.width * factor, small.height * factor)
    return [
        small.resize(size, Image.Resampling.NEAREST),
        small.resize(size, Image.Resampling.BICUBIC),
        photo,
    ]


def _middle(image: Image.Image, side: int) -> Image.Image:
    left, top = max(image.width - side, 0) // 2, max(image.height - side, 0) // 2
    return image.crop((left, top, min(left + side, image.width), min(top + side, image.height)))
