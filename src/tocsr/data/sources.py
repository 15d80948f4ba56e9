"""The photos of a source, a folder, pairs or WebDataset shards, by name, and their pixels."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from tocsr.data.pairs import matched, pair_folders
from tocsr.data.shards import COMPRESSED, expand_braces, read_member, shard_members
from tocsr.errors import TocsrError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tocsr.config import Source

BUILTIN_PHOTOS = Path(__file__).parents[1] / "assets" / "photos"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo of a source: an image file, or a member of a shard.

    Args:
        path: The image file or the shard.
        member: Its path in the shard; empty for an image file.
        offset: Where its first byte lies in the shard.
        size: Its bytes in the shard.
        lr: The file of its low-resolution image, where a source of pairs gives one.
    """

    path: Path
    member: str = ""
    offset: int = 0
    size: int = 0
    lr: Path | None = None

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else str(self.path)

    def read(self) -> bytes:
        """The photo's file, encoded as it is."""
        if self.member:
            return read_member(self.path, self.offset, self.size)
        return self.path.read_bytes()


def read_photo(photo: Photo) -> NDArray[np.uint8]:
    """A photo as uint8 RGB (H, W, 3).

    Gray, palettes and CMYK become RGB, 16 bits their upper 8. Alpha is left out, so that pixels
    keep the colour that is stored. The orientation in EXIF is not applied: a photo on its side is
    as good to train on.

    Raises:
        TocsrError: Missing, truncated, not an image, or of 32-bit pixels.
    """
    with _naming(photo), Image.open(BytesIO(photo.read())) as image:
        if image.mode in ("I", "F"):
            raise TocsrError(
                f"photos must have 8 or 16 bits per channel, {photo} has 32",
                "save it with 16 or leave it out",
            )
        if image.mode.startswith("I;16"):  # Pillow would clip all above 255 to white
            levels = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(levels[:, :, None], 3, axis=2)
        return np.asarray(image.convert("RGB"))


@cache
def file_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, from its header, which is read once a process.

    Raises:
        TocsrError: Missing, or its header is not an image's.
    """
    with _naming(path), Image.open(path) as image:
        return image.size


@contextmanager
def _naming(photo: Photo | Path) -> Iterator[None]:
    """Turns what Pillow raises into an error that names the photo."""
    try:
        yield
    except UnidentifiedImageError as error:  # whose own text names a buffer in memory
        raise TocsrError(f"{photo} is not a readable image", "remove or replace it") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise TocsrError(
            f"{photo} is not a readable image: {error}", "remove or replace it"
        ) from error


def list_photos(source: Source, fraction: float = 1.0) -> list[Photo]:
    """The photos of a source by name, those of shards in the order of the archives.

    Only names are read, nothing of what is in the photos.

    Args:
        source: A folder, pairs, a shard, or shards by braces; its limit keeps the first photos.
        fraction: Then keeps an evenly spread share of them.

    Raises:
        TocsrError: Missing, without a photo, compressed shards, photos and shards mixed, or pairs
            that lack one half.
    """
    folders = pair_folders(source)
    found = _pairs(*folders) if folders else _photos(source)
    photos = list(islice(found, source.limit or None))
    keep = max(round(len(photos) * fraction), 1)
    photos = [photos[i * len(photos) // keep] for i in range(keep)] if photos else []
    if not photos:
        raise TocsrError(
            f"data source '{source.path}' holds no photo ({', '.join(sorted(SUFFIXES))})"
        )
    return photos


def _photos(source: Source) -> Iterator[Photo]:
    path = BUILTIN_PHOTOS if source.path == "builtin" else Path(source.path)
    if path.is_dir():
        return _photos_of_folder(path)
    names = [source.path] if path.exists() else expand_braces(source.path)
    shards = [Path(name) for name in names]
    _refuse_compressed(shards)
    if not all(shard.suffix == ".tar" for shard in shards):
        raise TocsrError(
            f"data source '{source.path}' must be a folder of photos or .tar shards and is none",
            "set data.sources in the preset or with --data.sources",
        )
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise TocsrError(
            f"data source '{source.path}' lacks {len(missing)} of its {len(shards)} shards, first "
            f"{missing[0]}",
            "fetch them, or set data.sources in the preset or with --data.sources",
        )
    return _photos_of_shards(shards)


def _pairs(hr: Path, lr: Path) -> Iterator[Photo]:
    for folder in (hr, lr):
        if not folder.is_dir():
            raise TocsrError(
                f"pairs must lie in two folders, and '{folder}' is none",
                "set path and lr in data.sources",
            )
    pairs = matched((hr, _images(_files(hr))), (lr, _images(_files(lr))))
    return (Photo(path, lr=other) for path, other in pairs)


def _files(folder: Path) -> list[Path]:
    # hidden files are no photos: macOS leaves ._NAME.jpg beside NAME.jpg
    return [path for path in folder.rglob("*") if not path.name.startswith(".")]


def _images(files: list[Path]) -> list[Path]:
    return sorted(path for path in files if path.suffix.lower() in SUFFIXES)


def _photos_of_folder(folder: Path) -> Iterator[Photo]:
    files = _files(folder)
    photos = _images(files)
    shards = sorted(path for path in files if path.suffix == ".tar")
    if photos and shards:
        raise TocsrError(
            f"data source '{folder}' must hold photos or shards and holds both, {photos[0].name} "
            f"and {shards[0].name}",
            "name the folder of the photos, or the shards with braces: NAME-{000000..000084}.tar",
        )
    if photos:
        return map(Photo, photos)
    _refuse_compressed(files)
    return _photos_of_shards(shards)


def _photos_of_shards(shards: list[Path]) -> Iterator[Photo]:
    """Members called KEY.jpg and the like; in WebDataset the extension begins at the first dot."""
    for shard in shards:
        for member in shard_members(shard):
            key, _, extension = member.name.rpartition("/")[2].partition(".")
            if key and f".{extension.lower()}" in SUFFIXES:
                yield Photo(shard, member.name, member.offset, member.size)


def _refuse_compressed(files: list[Path]) -> None:
    for path in files:
        if path.name.lower().endswith(COMPRESSED):
            raise TocsrError(
                f"shards must be plain .tar files, whose photos can be read one by one, got {path}",
                "decompress it first",
            )
