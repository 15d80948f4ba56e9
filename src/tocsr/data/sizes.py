"""Sizes of photos, from the headers of their files, before the first crop is cut."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING

from tocsr.data.pairs import some_of
from tocsr.data.sources import file_size
from tocsr.errors import TocsrError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tocsr.data.sources import Photo


def check_sizes(source: str, photos: list[Photo], crop: int) -> None:
    """Refuses files that no crop can be cut from, all of a source at once.

    Members of shards are left alone: each header is a read somewhere in a large file. What is wrong
    with one is found when it is first used.

    Args:
        source: What the error calls the source.
        photos: Its photos.
        crop: Side of the crops in pixels.

    Raises:
        TocsrError: Some files are too small, or their headers are not an image's.
    """
    files = [photo for photo in photos if not photo.member]
    problems = [problem for photo in files if (problem := _problem(photo, crop))]
    if problems:
        raise TocsrError(
            f"photos must be readable and at least {crop} x {crop}, {len(problems)} of the "
            f"{len(files)} in data source '{source}' are not: {some_of(problems)}",
            "leave them out, or set a smaller data.crop",
        )


def _problem(photo: Photo, crop: int) -> str:
    try:
        width, height = file_size(photo.path)
    except TocsrError as error:
        return error.message
    return f"{photo} is {width} x {height}" if min(width, height) < crop else ""


def pair_factor(sources: Iterable[list[Photo]], crop: int) -> int:
    """The factor between the sides of the two halves of every pair; 0 where there is no pair.

    Raises:
        TocsrError: The pairs are not all of one factor, a whole number that divides the crops.
    """
    sizes = {
        photo: (file_size(photo.path), file_size(photo.lr))
        for photo in chain.from_iterable(sources)
        if photo.lr
    }
    if not sizes:
        return 0
    factor = Counter(max(hr[0] // lr[0], 1) for hr, lr in sizes.values()).most_common(1)[0][0]
    odd = [
        f"{photo} is {hr[0]} x {hr[1]}, its low-resolution image {lr[0]} x {lr[1]}"
        for photo, (hr, lr) in sizes.items()
        if hr != (factor * lr[0], factor * lr[1])
    ]
    if odd:
        raise TocsrError(
            f"the sides of each pair must be in the same ratio 1:n, here 1:{factor}, and "
            f"{len(odd)} of {len(sizes)} pairs are not: {some_of(odd)}",
            "crop them, or leave them out",
        )
    if crop % factor:
        raise TocsrError(
            f"data.crop must be a multiple of the factor of the pairs, got {crop} and {factor}"
        )
    return factor
