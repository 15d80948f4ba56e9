"""Photos from folders, and the crops that training sees.

Which photo, which crop and whether it is mirrored are functions of (seed, sample index): the same
sample is the same pixels whatever the batch, the worker or the number of times a run was killed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tocsr.errors import TocsrError
from tocsr.seeding import numpy_rng

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from tocsr.config import DataConfig, Source

BUILTIN_PHOTOS = Path(__file__).parents[1] / "assets" / "photos"
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


@dataclass(frozen=True)
class Batch:
    """Crops of one optimiser step.

    Args:
        images: (B, 3, crop, crop) in [-1, 1].
        indices: Sample index of each.
        files: The photo each was cut from.
    """

    images: Tensor
    indices: list[int]
    files: list[str]

    def to(self, device: torch.device) -> Batch:
        """The batch with its images on `device`."""
        return Batch(self.images.to(device), self.indices, self.files)

    def split(self, parts: int) -> list[Batch]:
        """Equal micro-batches, in order."""
        if len(self.indices) % parts:
            raise ValueError(f"a batch of {len(self.indices)} cannot be split into {parts} parts")
        size = len(self.indices) // parts
        return [
            Batch(self.images[i : i + size], self.indices[i : i + size], self.files[i : i + size])
            for i in range(0, size * parts, size)
        ]


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [-1, 1]."""
    return torch.tensor(image).permute(2, 0, 1).float() / 127.5 - 1


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) about [-1, 1] -> uint8 (H, W, 3), rounded and clipped."""
    levels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(1, 2, 0).cpu().numpy()


def read_photo(path: Path) -> NDArray[np.uint8]:
    """A photo as uint8 RGB (H, W, 3).

    Raises:
        TocsrError: Missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise TocsrError(
            f"{path} is not a readable image: {error}", "remove or replace it"
        ) from error


def list_photos(source: Source, fraction: float = 1.0) -> list[Path]:
    """The photos of a source by name; `fraction` keeps an evenly spread share of them.

    Raises:
        TocsrError: No such folder, or no photo in it.
    """
    folder = BUILTIN_PHOTOS if source.path == "builtin" else Path(source.path)
    if not folder.is_dir():
        raise TocsrError(
            f"data source '{source.path}' must be a folder of photos and is none",
            "set data.sources in the preset or with --data.sources",
        )
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    photos = photos[: source.limit or None]
    keep = max(round(len(photos) * fraction), 1)
    photos = [photos[i * len(photos) // keep] for i in range(keep)] if photos else []
    if not photos:
        raise TocsrError(f"{folder} holds no photo ({', '.join(sorted(SUFFIXES))})")
    return photos


class PhotoCrops(Dataset[tuple[Tensor, int, str]]):
    """Random crops, mirrored half of the time, from a weighted mixture of folders.

    Args:
        config: Sources, crop size and cache.
        seed: Seed of every choice.
        num_samples: Length; sample i is the same for every length.
        num_distinct: Sample i is sample i modulo this, index included; 0 for no repetition.
    """

    def __init__(
        self, config: DataConfig, seed: int, num_samples: int, num_distinct: int = 0
    ) -> None:
        self.sources = [list_photos(source, config.fraction) for source in config.sources]
        weights = np.array([source.weight for source in config.sources])
        self.shares = np.cumsum(weights) / weights.sum()
        self.crop, self.seed, self.num_samples = config.crop, seed, num_samples
        self.num_distinct = num_distinct or num_samples
        self.cache: OrderedDict[Path, NDArray[np.uint8]] = OrderedDict()
        self.cache_bytes = config.cache_mb * 2**20

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        index %= self.num_distinct
        rng = numpy_rng(self.seed, "crop", index)
        photos = self.sources[int(np.searchsorted(self.shares, rng.random(), side="right"))]
        path = photos[int(rng.integers(len(photos)))]
        photo = self._photo(path)
        height, width = photo.shape[:2]
        top = int(rng.integers(height - self.crop + 1))
        left = int(rng.integers(width - self.crop + 1))
        crop = photo[top : top + self.crop, left : left + self.crop]
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        return to_tensor(np.ascontiguousarray(crop)), index, str(path)

    def _photo(self, path: Path) -> NDArray[np.uint8]:
        if path not in self.cache:
            photo = read_photo(path)
            if min(photo.shape[:2]) < self.crop:
                raise TocsrError(
                    f"photos must be at least {self.crop} x {self.crop}, {path} is "
                    f"{photo.shape[1]} x {photo.shape[0]}",
                    "remove it or set a smaller data.crop",
                )
            self.cache[path] = photo
            while len(self.cache) > 1 and self._cached_bytes() > self.cache_bytes:
                self.cache.popitem(last=False)
        self.cache.move_to_end(path)
        return self.cache[path]

    def _cached_bytes(self) -> int:
        return sum(photo.nbytes for photo in self.cache.values())


def _collate(samples: list[tuple[Tensor, int, str]]) -> Batch:
    images, indices, files = zip(*samples, strict=True)
    return Batch(torch.stack(images), list(indices), list(files))


def batches(
    dataset: Dataset[tuple[Tensor, int, str]],
    batch_size: int,
    steps: Iterable[int],
    num_workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """The batch of each step: samples step * batch_size and on, shared out among processes.

    Args:
        dataset: Samples by index.
        batch_size: Samples per step over all processes.
        steps: Optimiser steps to make batches for; a resumed run starts where it stopped.
        num_workers: Processes that read.
        rank: This process.
        world: Number of processes.
    """
    indices = [
        list(range(step * batch_size + rank, (step + 1) * batch_size, world)) for step in steps
    ]
    return iter(
        DataLoader(dataset, batch_sampler=indices, num_workers=num_workers, collate_fn=_collate)
    )
