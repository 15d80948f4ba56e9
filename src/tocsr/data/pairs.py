"""Pairs of photos and their low-resolution images: two folders, matched by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tocsr.config import require
from tocsr.errors import TocsrError

if TYPE_CHECKING:
    from tocsr.config import Source

Half = tuple[Path, list[Path]]  # a folder and the images in it


def some_of(names: list[str], num: int = 3) -> str:
    """The first few names, and how many others there are."""
    more = len(names) - num
    return ", ".join(names[:num]) + (f" and {more} more" if more > 0 else "")


def by_name(folder: Path, images: list[Path]) -> dict[str, Path]:
    """The images in a folder by name: the path below it without the suffix.

    Raises:
        TocsrError: Two have one name.
    """
    found: dict[str, Path] = {}
    for path in images:
        name = path.relative_to(folder).with_suffix("").as_posix()
        require(
            name not in found,
            f"an image must be the only one of its name, {found.get(name)} and {path} are two",
            "move one of them away",
        )
        found[name] = path
    return found


def pair_folders(source: Source) -> tuple[Path, Path] | None:
    """The folders of a source's photos and of their low-resolution images; None without pairs."""
    folder = Path(source.path)
    if source.lr:
        return folder, Path(source.lr)
    if (folder / "hr").is_dir() and (folder / "lr").is_dir():
        return folder / "hr", folder / "lr"
    return None


def matched(hr: Half, lr: Half) -> list[tuple[Path, Path]]:
    """The pairs by name.

    Raises:
        TocsrError: An image of either half lacks its other one, or two have one name.
    """
    high, low = by_name(*hr), by_name(*lr)
    lacking = [(hr[0], lr[0], high.keys() - low.keys()), (lr[0], hr[0], low.keys() - high.keys())]
    alone = [
        f"{len(names)} in '{here}' have none in '{there}': {some_of(sorted(names))}"
        for here, there, names in lacking
        if names
    ]
    if alone:
        raise TocsrError(
            f"pairs must have the same names, {' and '.join(alone)}", "remove or rename them"
        )
    return [(path, low[name]) for name, path in high.items()]
