"""The crops that training sees, and the batches they come in.

Which photo, which crop and whether it is mirrored are functions of (seed, sample index): the same
sample is the same pixels whatever the batch, the worker or the number of times a run was killed.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tocsr.data.sizes import check_sizes, pair_factor
from tocsr.data.sources import Photo, list_photos, read_photo
from tocsr.errors import TocsrError
from tocsr.seeding import numpy_rng

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from tocsr.config import DataConfig


@dataclass(frozen=True)
class Place:
    """Where a crop was cut; two crops of one place and size are the same pixels.

    Args:
        file: The photo; in a shard, `SHARD.tar/MEMBER.jpg`.
        top: First row of the crop in the photo.
        left: First column.
        mirrored: Whether the crop was mirrored left to right after it was cut.
    """

    file: str
    top: int
    left: int
    mirrored: bool


@dataclass(frozen=True)
class Batch:
    """Crops of one optimiser step.

    Args:
        images: (B, 3, crop, crop) in [-1, 1].
        indices: Sample index of each.
        places: Where each was cut.
        lr: (B, 3, crop / f, crop / f) in [-1, 1], the low-resolution crops of pairs with the factor
            f, NaN throughout in a sample whose source has none; None where no source has any.
    """

    images: Tensor
    indices: list[int]
    places: list[Place]
    lr: Tensor | None = None

    @property
    def files(self) -> list[str]:
        """The photo each crop was cut from."""
        return [place.file for place in self.places]

    def to(self, device: torch.device) -> Batch:
        """The batch with its images on `device`."""
        lr = None if self.lr is None else self.lr.to(device)
        return replace(self, images=self.images.to(device), lr=lr)

    def split(self, parts: int) -> list[Batch]:
        """Equal micro-batches, in order."""
        if len(self.indices) % parts:
            raise ValueError(f"a batch of {len(self.indices)} cannot be split into {parts} parts")
        size = len(self.indices) // parts
        slices = [slice(i, i + size) for i in range(0, size * parts, size)]
        lrs = [None if self.lr is None else self.lr[part] for part in slices]
        return [
            Batch(self.images[part], self.indices[part], self.places[part], lr)
            for part, lr in zip(slices, lrs, strict=True)
        ]


class Sample(NamedTuple):
    """One crop.

    Args:
        image: (3, crop, crop) in [-1, 1].
        sample_index: Which of the dataset's samples it is.
        place: Where it was cut.
        lr: As in `Batch`, of one sample.
    """

    image: Tensor
    sample_index: int
    place: Place
    lr: Tensor | None = None


def to_tensor(image: NDArray[np.uint8]) -> Tensor:
    """uint8 (H, W, 3) -> float32 (3, H, W) in [-1, 1]."""
    return torch.tensor(image).permute(2, 0, 1).float() / 127.5 - 1


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) about [-1, 1] -> uint8 (H, W, 3), rounded and clipped."""
    levels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(1, 2, 0).cpu().numpy()


class PhotoCrops(Dataset[Sample]):
    """Random crops, mirrored half of the time, from a weighted mixture of sources.

    From a pair both halves are cut, so that they show the same: there crops begin at multiples of
    the factor.

    Args:
        config: Sources, size and alignment of the crops, cache.
        seed: Seed of every choice.
        num_samples: Length; sample i is the same for every length.
        num_distinct: Sample i is sample i modulo this, index included; 0 for no repetition.

    Raises:
        TocsrError: A source has no photos, or photos that no crop can be cut from.
    """

    def __init__(
        self, config: DataConfig, seed: int, num_samples: int, num_distinct: int = 0
    ) -> None:
        self.sources = [list_photos(source, config.fraction) for source in config.sources]
        for source, photos in zip(config.sources, self.sources, strict=True):
            check_sizes(source.path, photos, config.crop)
        self.factor = pair_factor(self.sources, config.crop)
        weights = np.array([source.weight for source in config.sources])
        self.shares = np.cumsum(weights) / weights.sum()
        self.crop, self.align = config.crop, config.align
        self.seed, self.num_samples = seed, num_samples
        self.num_distinct = num_distinct or num_samples
        self.cache: OrderedDict[Photo, NDArray[np.uint8]] = OrderedDict()
        self.cached_bytes, self.max_cached_bytes = 0, config.cache_mb * 2**20

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> Sample:
        index %= self.num_distinct
        rng = numpy_rng(self.seed, "crop", index)
        photos = self.sources[int(np.searchsorted(self.shares, rng.random(), side="right"))]
        photo = photos[int(rng.integers(len(photos)))]
        pixels = self._pixels(photo)
        height, width = pixels.shape[:2]
        if min(height, width) < self.crop:  # of a file this was seen before the first sample
            raise TocsrError(
                f"photos must be at least {self.crop} x {self.crop}, {photo} is {width} x {height}",
                "leave out all photos with a shorter side, or set a smaller data.crop",
            )
        align = math.lcm(self.align, self.factor) if photo.lr else self.align
        top = align * int(rng.integers((height - self.crop) // align + 1))
        left = align * int(rng.integers((width - self.crop) // align + 1))
        place = Place(str(photo), top, left, mirrored=bool(rng.random() < 0.5))
        return Sample(_cut(pixels, place, self.crop), index, place, self._lr_crop(photo, place))

    def _lr_crop(self, photo: Photo, place: Place) -> Tensor | None:
        """What the low-resolution image shows of a crop; NaN where only others have one."""
        if not self.factor:
            return None
        side = self.crop // self.factor
        if photo.lr is None:
            return torch.full((3, side, side), torch.nan)
        small = replace(place, top=place.top // self.factor, left=place.left // self.factor)
        return _cut(self._pixels(Photo(photo.lr)), small, side)

    def _pixels(self, photo: Photo) -> NDArray[np.uint8]:
        """The photo, decoded; the one just used is kept even where it alone fills the cache."""
        if photo not in self.cache:
            pixels = read_photo(photo)
            self.cache[photo] = pixels
            self.cached_bytes += pixels.nbytes
            while len(self.cache) > 1 and self.cached_bytes > self.max_cached_bytes:
                self.cached_bytes -= self.cache.popitem(last=False)[1].nbytes
        self.cache.move_to_end(photo)
        return self.cache[photo]


def _cut(pixels: NDArray[np.uint8], place: Place, side: int) -> Tensor:
    """The crop at a place, (3, side, side) in [-1, 1]."""
    crop = pixels[place.top : place.top + side, place.left : place.left + side]
    return to_tensor(np.ascontiguousarray(crop[:, ::-1] if place.mirrored else crop))


class _Handing(Dataset[Any]):
    """Hands an error over in place of samples; raised in a worker it would come as a traceback."""

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: list[int]) -> list[Sample] | TocsrError:
        try:
            return [self.dataset[index] for index in indices]
        except TocsrError as error:
            return error


def _collate(samples: list[Sample] | TocsrError) -> Batch | TocsrError:
    if isinstance(samples, TocsrError):
        return samples
    images, indices, places, lrs = zip(*samples, strict=True)
    lr = None if lrs[0] is None else torch.stack(lrs)
    return Batch(torch.stack(images), list(indices), list(places), lr)


def batches(
    dataset: Dataset[Sample],
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

    Raises:
        TocsrError: A photo cannot be read or is smaller than the crop.
    """
    indices = (
        list(range(step * batch_size + rank, (step + 1) * batch_size, world)) for step in steps
    )
    for batch in DataLoader(
        _Handing(dataset), batch_sampler=indices, num_workers=num_workers, collate_fn=_collate
    ):
        if isinstance(batch, TocsrError):
            raise batch
        yield batch
