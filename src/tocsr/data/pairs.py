"""Pairs of photos and their low-resolution images: two folders, matched by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tocsr.errors import TocsrError

if TYPE_CHECKING:
    from tocsr.config import Source

Half = tuple[Path, list[Path]]  # a folder and the images in it


def some_of(names: list[str], num: int = 3) -> str:
    """The first few names, and how many others there are."""
    more = len(names) - num
    return ", ".join(names[:num]) + (f" and {more} more" if more > 0 else "")


def pair_folders(source: Source) -> tuple[Path, Path] | None:
    """The folders of a source's photos and of their low-resolution images; None without pairs."""
    folder = Path(source.path)
    if source.lr:
        return folder, Path(source.lr)
    if (folder / "hr").is_dir() and (folder / "lr").is_dir():
        return folder / "hr", folder / "lr"
    return None


def matched(hr: Half, lr: Half) -> list[tuple[Path, Path]]:
    """The pairs by name: the path below its folder, without the suffix.

    Raises:
        TocsrError: An image of either half lacks its other one, or two have one name.
    """
    high, low = _by_name(*hr), _by_name(*lr)
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


def _by_name(folder: Path, images: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in images:
        name = path.relative_to(folder).with_suffix("").as_posix()
        other = found.setdefault(name, path)
        if other != path:
            raise TocsrError(
                f"pairs must differ in more than the suffix, '{folder}' holds {other.name} and "
                f"{path.name}",
                "remove one of them",
            )
    return found
