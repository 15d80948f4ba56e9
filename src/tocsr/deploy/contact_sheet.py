"""Sheets of crops to look at: a row for each image, a column for each way it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from tocsr.deploy.pictures import Pictures

CELL, GAP, LINE = 288, 8, 20  # in pixels of the sheet: a crop's side, between two, a line of words
_LETTERS = 46  # that fit above a crop


def draw_sheet(rows: Sequence[Sequence[tuple[str, Image.Image]]]) -> Image.Image:
    """Crops in rows and columns on white, each below its caption.

    Args:
        rows: Caption and crop of each column, the same number in each row. Captions are of as many
            lines as the first; crops are at most `CELL` x `CELL`.
    """
    head = LINE * (rows[0][0][0].count("\n") + 1)
    size = (len(rows[0]) * (CELL + GAP) - GAP, len(rows) * (head + CELL))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, cells in enumerate(rows):
        for column, (caption, crop) in enumerate(cells):
            left, top = column * (CELL + GAP), row * (head + CELL)
            for number, words in enumerate(caption.split("\n")):
                place = (left, top + number * LINE + 3)
                draw.text(place, words[-_LETTERS:], fill="black", font_size=12)
            sheet.paste(crop, (left, top + head))
    return sheet


def middle(image: Image.Image, side: int) -> Image.Image:
    """The middle square of an image, or what it has of one."""
    left, top = max(image.width - side, 0) // 2, max(image.height - side, 0) // 2
    return image.crop((left, top, min(left + side, image.width), min(top + side, image.height)))


def contact_sheet(result: Mapping[str, Any], pictures: Pictures) -> Image.Image:
    """The middles of the worst, the median and the best image, at their own pixels.

    Columns: the low-resolution image enlarged in two ways where there is one, every system with its
    value, the reference where there is one.

    Args:
        result: Of an evaluation.
        pictures: Of its images; those that the sheet names are among them.
    """
    chosen = pictures.chosen
    named = {"worst": chosen.worst[:1], "median": [chosen.median], "best": chosen.best[:1]}
    rows, seen = [], set()
    for kind, names in named.items():
        for name in names:
            if name not in seen:  # of one image there is one row, of two there are two
                seen.add(name)
                rows.append(_row(f"{kind}: {name}", name, result, pictures))
    return draw_sheet(rows)


def _row(
    title: str, name: str, result: Mapping[str, Any], pictures: Pictures
) -> list[tuple[str, Image.Image]]:
    metric, index = pictures.chosen.metric, result["images"].index(name)
    cells: list[tuple[str, Image.Image]] = []
    for column, picture in pictures.of[name].items():
        words = column
        if column in result["systems"]:
            value = float(result["systems"][column]["values"][metric][index])
            words += f", {result['metrics'][metric]['title']} {value:.4g}"
        cells.append((f"{'' if cells else title}\n{words}", middle(picture, CELL)))
    return cells
