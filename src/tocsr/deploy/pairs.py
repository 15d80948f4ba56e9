"""Which images belong together: by name and never by order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tocsr.config import require
from tocsr.data.pairs import by_name, some_of
from tocsr.deploy.image_files import list_images
from tocsr.errors import TocsrError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NUM_NAMED = 5  # of the missing images, in a message


def named_images(folder: Path) -> dict[str, Path]:
    """The images below a folder by name.

    Raises:
        TocsrError: No folder, no image, or two images of one name.
    """
    require(folder.is_dir(), f"images are compared by folders, {folder} is none")
    found = by_name(folder, list_images(folder))
    require(len(found) > 0, f"{folder} must hold images, none found")
    return found


def common_names(
    folders: Mapping[str, Mapping[str, Path]], allow_missing: bool
) -> tuple[list[str], dict[str, list[str]]]:
    """The names that all folders have, sorted, and those that each lacks of what others have.

    Args:
        folders: Images by name, by what the folder is called.
        allow_missing: Whether images may be missing somewhere.

    Raises:
        TocsrError: Images are missing and may not be, or no image is in all folders.
    """
    every = sorted(set().union(*folders.values()))
    missing = {
        label: lacking
        for label, images in folders.items()
        if (lacking := [name for name in every if name not in images])
    }
    names = [name for name in every if all(name in images for images in folders.values())]
    said = "; ".join(f"{label} lacks {some_of(n, _NUM_NAMED)}" for label, n in missing.items())
    require(len(names) > 0, f"images are paired by name, and no name is in all folders: {said}")
    if missing and not allow_missing:
        raise TocsrError(
            f"every folder must hold the same images: {said}",
            f"add them, or evaluate the {len(names)} that all have with --allow_missing",
        )
    return names, missing
