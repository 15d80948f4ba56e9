"""A drawing of an architecture: the U of its stages, and what each block costs (figure S5)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from tocsr.models.variants import TEACHER

if TYPE_CHECKING:
    from tocsr.models.cost import Cost
    from tocsr.models.library import LibraryCosts

ZOOM = 2  # pixels of the file per unit of the layout below
BOX = (320, 92)  # width and height of a stage's box
STEP = (44, 116)  # how far the next level down is shifted and lies lower
MARGIN, HEAD, GAP = 20, 86, 90  # around all; above the boxes; between the two sides at the top
BAR = 10  # height of a bar
_THOUSANDS = {"G": 10**9, "M": 10**6, "k": 10**3}
INK, PALE, BLUE = "#222222", "#c4c4c4", "#3f78b5"


def _short(cost: Cost) -> str:
    return f"{_metric(cost.params)}, {_metric(cost.macs)}MACs"


def _metric(number: int) -> str:
    """Three digits and k, M or G."""
    letter = next((x for x in _THOUSANDS if number >= 0.9995 * _THOUSANDS[x]), "")
    return f"{number / _THOUSANDS.get(letter, 1):.3g} {letter}"


class _Pen:
    """Draws in units of the layout."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * ZOOM, height * ZOOM), "white")
        self._draw = ImageDraw.Draw(self.image)

    def box(self, left: float, top: float, right: float, bottom: float, fill: str) -> None:
        self._draw.rectangle([x * ZOOM for x in (left, top, right, bottom)], fill=fill)

    def frame(self, left: float, top: float) -> None:
        place = [x * ZOOM for x in (left, top, left + BOX[0], top + BOX[1])]
        self._draw.rounded_rectangle(place, 8 * ZOOM, fill="white", outline=INK, width=ZOOM)

    def line(self, start: tuple[float, float], end: tuple[float, float], fill: str) -> None:
        place = [x * ZOOM for x in (*start, *end)]
        self._draw.line(place, fill=fill, width=2 * ZOOM)

    def text(self, left: float, top: float, words: str, size: int) -> None:
        font = ImageFont.load_default(size * ZOOM)
        self._draw.text((left * ZOOM, top * ZOOM), words, fill=INK, font=font)


def _stage(
    pen: _Pen, name: str, own: Cost, teacher: Cost, place: tuple[float, float], most: int
) -> None:
    """A stage's box: its name, its variant, what that costs, and bars of parameters."""
    left, top = place
    pen.frame(left, top)
    pen.text(left + 12, top + 8, name, 20)
    pen.text(left + 50, top + 10, own.part, 16)
    pen.text(left + 12, top + 36, f"{_short(own)}  of  {_short(teacher)}", 13)
    left, low, length = left + 12, top + BOX[1] - 28, (BOX[0] - 24) / most
    pen.box(left, low, left + length * teacher.params, low + 2 * BAR, PALE)
    pen.box(left, low + BAR / 2, left + length * own.params, low + 1.5 * BAR, BLUE)


def _places(num_stages: int, width: int) -> list[tuple[float, float]]:
    """The upper left corner of each stage's box, on the U from the upper left to the right."""
    places: list[tuple[float, float]] = []
    for index in range(num_stages):
        mirrored = num_stages - 1 - index
        level = min(index, mirrored)
        left: float = MARGIN + STEP[0] * level
        if index == mirrored:
            left = (width - BOX[0]) / 2
        elif index > mirrored:
            left = width - left - BOX[0]
        places.append((left, HEAD + STEP[1] * level))
    return places


def draw_architecture(costs: LibraryCosts, choice: dict[str, str], title: str) -> Image.Image:
    """The encoder's stages down the left, the bottleneck below, the decoder's up the right.

    A bar's length is in parameters, on one scale for all: blue the block that stands there, grey
    behind it the teacher's.

    Args:
        costs: Of the chosen block and the teacher's own at every stage.
        choice: Stage -> variant, the decision vector a.
        title: The first line.
    """
    depth = len(choice) // 2  # levels above the bottleneck
    width = 2 * (MARGIN + STEP[0] * (depth - 1) + BOX[0]) + GAP
    pen = _Pen(width, HEAD + STEP[1] * depth + BOX[1] + MARGIN)
    places = _places(len(choice), width)
    for (left, top), (right, _) in zip(places[:depth], places[:depth:-1], strict=True):
        pen.line((left + BOX[0], top + BOX[1] / 2), (right, top + BOX[1] / 2), PALE)
    for one, other in pairwise(places):
        x = (one[0] + other[0] + BOX[0]) / 2
        pen.line((x, min(one[1], other[1]) + BOX[1]), (x, max(one[1], other[1])), INK)
    most = max(rows[TEACHER].params for rows in costs.stages.values())
    for (name, rows), place in zip(costs.stages.items(), places, strict=True):
        _stage(pen, name, rows[choice[name]], rows[TEACHER], place, most)
    whole = costs.of(dict.fromkeys(choice, TEACHER))
    pen.text(MARGIN, 12, title, 20)
    pen.text(MARGIN, 40, f"U-Net: {_short(costs.of(choice))}  of  {_short(whole)}", 15)
    pen.text(MARGIN, 62, "bars: parameters, blue on the teacher's", 11)
    return pen.image
