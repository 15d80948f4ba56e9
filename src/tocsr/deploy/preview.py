"""A sheet of pairs to look at: each low-resolution image enlarged beside its photo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from tocsr.deploy.contact_sheet import CELL, draw_sheet, middle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HEADINGS = ("LR, its pixels", "LR, bicubic", "HR")
MAX_ROWS = 6


def preview(pairs: Sequence[tuple[str, Path, Path]], factor: int) -> Image.Image:
    """The middle of up to `MAX_ROWS` pairs, spread evenly over all.

    Args:
        pairs: Name, low-resolution file and photo of each; at least one.
        factor: Between their sides.
    """
    rows = min(len(pairs), MAX_ROWS)
    chosen = [pairs[number * len(pairs) // rows] for number in range(rows)]
    return draw_sheet(
        [
            list(
                zip((f"{name}: {HEADINGS[0]}", *HEADINGS[1:]), _cells(lr, hr, factor), strict=True)
            )
            for name, lr, hr in chosen
        ]
    )


def _cells(lr: Path, hr: Path, factor: int) -> list[Image.Image]:
    """The middle of a low-resolution image, enlarged in two ways, and the same of its photo."""
    with Image.open(lr) as image:
        small = middle(image.convert("RGB"), max(CELL // factor, 1))
    with Image.open(hr) as image:
        photo = middle(image.convert("RGB"), max(CELL // factor, 1) * factor)
    return [*enlarged(small, factor).values(), photo]


def enlarged(small: Image.Image, factor: int) -> dict[str, Image.Image]:
    """A low-resolution image at the size of its photo, by heading: its pixels, and bicubic."""
    size = (small.width * factor, small.height * factor)
    ways = (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
    return {
        heading: small.resize(size, way) for heading, way in zip(HEADINGS[:2], ways, strict=True)
    }
