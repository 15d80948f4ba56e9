"""Tiles of an image, what they add up to, and noise that belongs to a place.

Legend: H W pixels of the low-resolution image, h w latent pixels, C channels, n upscale.
A network with strides answers differently at x and x + 1, but the same at x and x + `multiple`;
so every tile begins at a multiple of it, and a tile's result is a crop of the whole image's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

Level = TypeVar("Level", np.uint8, np.uint16)


@dataclass(frozen=True)
class Span:
    """A tile along one side of the image, in low-resolution pixels.

    Args:
        start: First pixel that is computed, a multiple of `multiple`.
        stop: One past the last pixel that is computed, a multiple too.
        core_start: First pixel that is this tile's own; the cores cut the side without gaps.
        core_stop: One past the last pixel of its own.
    """

    start: int
    stop: int
    core_start: int
    core_stop: int

    @property
    def size(self) -> int:
        """Pixels that are computed."""
        return self.stop - self.start


@dataclass(frozen=True)
class Tile:
    """A rectangle of the padded low-resolution image.

    Args:
        rows: Its extent from top to bottom.
        cols: Its extent from left to right.
    """

    rows: Span
    cols: Span


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not below `value`."""
    return -(-value // multiple) * multiple


def spans(size: int, core: int, halo: int, multiple: int) -> list[Span]:
    """Cuts one side into cores of nearly equal size and gives each its halo.

    Args:
        size: Pixels of the side; padded to a multiple first.
        core: Most pixels of a core, rounded up to a multiple.
        halo: Pixels computed around a core, rounded up to a multiple; none beyond the border.
        multiple: What every start and stop is a multiple of.
    """
    units, halo = -(-size // multiple), round_up(halo, multiple)
    count = -(-units // -(-core // multiple))
    cuts = [multiple * (units * i // count) for i in range(count + 1)]
    return [
        Span(max(0, begin - halo), min(cuts[-1], end + halo), begin, end)
        for begin, end in pairwise(cuts)
    ]


def tiles(height: int, width: int, core: int, halo: int, multiple: int) -> list[Tile]:
    """The tiles of an image, row by row; see `spans` for the arguments."""
    rows, cols = (spans(size, core, halo, multiple) for size in (height, width))
    return [Tile(row, col) for row in rows for col in cols]


def mirrored(start: int, stop: int, size: int) -> NDArray[np.intp]:
    """Which pixels of a side stand at places `start` to `stop`, mirrored beyond its end.

    The border pixel is not repeated; a side of one pixel has nothing to mirror and repeats it.
    """
    place = np.arange(start, stop) % max(1, 2 * size - 2)
    return np.minimum(place, 2 * size - 2 - place) if size > 1 else place


def _weights(parts: Sequence[Span], upscale: int) -> dict[Span, NDArray[np.float32]]:
    """What each tile counts for at each of its result pixels along one side; they sum to 1.

    Across a cut the weight falls linearly over half the halo on either side, so the outer half of
    a halo, where the network sees the tile's edge, counts nothing.
    """
    length = max(part.stop for part in parts) * upscale
    total = np.zeros(length, np.float64)
    raw = {}
    for part in parts:
        place = np.arange(part.start * upscale, part.stop * upscale, dtype=np.float64) + 0.5
        rise = _ramp(place, part.core_start * upscale, (part.core_start - part.start) * upscale)
        fall = _ramp(-place, -part.core_stop * upscale, (part.stop - part.core_stop) * upscale)
        raw[part] = np.minimum(rise, fall)
        total[part.start * upscale : part.stop * upscale] += raw[part]
    return {
        part: (weight / total[part.start * upscale : part.stop * upscale]).astype(np.float32)
        for part, weight in raw.items()
    }


def _ramp(place: NDArray[np.float64], cut: int, halo: int) -> NDArray[np.float64]:
    """0 to 1 over [cut - halo / 2, cut + halo / 2]; 1 everywhere at the image's border."""
    return np.clip((place - cut) / halo + 0.5, 0, 1) if halo else np.ones_like(place)


def to_levels(image: NDArray[np.float32], dtype: type[Level]) -> NDArray[Level]:
    """(C, H, W) in [-1, 1] -> (H, W, C) in 0..255 or 0..65535, rounded to the nearest."""
    limit = np.iinfo(dtype).max
    levels = np.rint((image + np.float32(1)) * np.float32(limit / 2))
    return np.clip(levels, 0, limit).astype(dtype).transpose(1, 2, 0)


def strips(
    parts: Sequence[Tile],
    compute: Callable[[Tile], NDArray[np.float32]],
    height: int,
    width: int,
    upscale: int,
    dtype: type[Level],
) -> Iterator[NDArray[Level]]:
    """Computes the tiles in order and blends them into the whole result, from top to bottom.

    Float values are held for one row of tiles at a time, 12 bytes per pixel of the result in it.

    Args:
        parts: From `tiles`, row by row.
        compute: Gives the result of a tile, (3, n * tile rows, n * tile cols) in [-1, 1].
        height: Of the low-resolution image before padding.
        width: Likewise.
        upscale: n.
        dtype: Of the result, uint8 or uint16.

    Yields:
        The next rows of the result (rows, n * width, 3), at most 64; n * height in all.
    """
    by_row = [(rows, list(group)) for rows, group in groupby(parts, key=lambda tile: tile.rows)]
    row_weights = _weights([rows for rows, _ in by_row], upscale)
    col_weights = _weights([tile.cols for tile in by_row[0][1]], upscale)
    starts = [rows.start * upscale for rows, _ in by_row] + [height * upscale]
    band_height = max(rows.size for rows in row_weights) * upscale
    band_width = max(cols.stop for cols in col_weights) * upscale
    band = np.zeros((3, band_height, band_width), np.float32)  # result rows from `start` on
    for (rows, row_of_tiles), (start, next_start) in zip(by_row, pairwise(starts), strict=True):
        filled = rows.size * upscale
        for tile in row_of_tiles:
            weight = row_weights[rows][:, None] * col_weights[tile.cols]
            left, right = tile.cols.start * upscale, tile.cols.stop * upscale
            band[:, :filled, left:right] += compute(tile) * weight
        finished = next_start - start  # no later tile reaches these rows
        for top in range(0, finished, 64):  # few at a time, for the memory of the conversion
            yield to_levels(band[:, top : min(top + 64, finished), : width * upscale], dtype)
        band[:, : filled - finished] = band[:, finished:filled]
        band[:, filled - finished :] = 0


_MASK = 0xFFFFFFFFFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def position_noise(
    seed: int, top: int, left: int, height: int, width: int, channels: int
) -> NDArray[np.float32]:
    """Standard normal noise that is a function of the seed and the place alone.

    So a tile's noise is the crop of the whole image's, whatever the tiles. Each value hashes its
    place to 64 bits, whose halves u, v in (0, 1) give sqrt(-2 ln u) cos(2 pi v) (Box and Muller,
    1958); no value is beyond 6.8.

    Args:
        seed: Any integer; taken modulo 2^64.
        top: First row, from 0; rows and columns end below 2^21.
        left: First column.
        height: Rows.
        width: Columns.
        channels: C, below 2^21.

    Returns:
        (C, height, width), float32.
    """
    channel, row, col = (
        np.arange(begin, begin + count, dtype=np.uint64)
        for begin, count in ((0, channels), (top, height), (left, width))
    )
    place = (channel[:, None, None] << np.uint64(42)) | (row[:, None] << np.uint64(21)) | col
    key = _mix(np.array([(seed + _GOLDEN) & _MASK], np.uint64))
    bits = _mix(_mix(place + np.uint64(_GOLDEN)) ^ key)
    u = ((bits >> np.uint64(32)).astype(np.float64) + 0.5) / 2**32
    v = ((bits & np.uint64(0xFFFFFFFF)).astype(np.float64) + 0.5) / 2**32
    return (np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).astype(np.float32)
