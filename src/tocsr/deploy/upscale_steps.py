"""What is done to one photo: read, upscaled, written; through memory, or in strips.

A large photo is read only once it is worked on, when nothing else is held: what memory is free is
then known.
"""

from __future__ import annotations

import io
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tocsr.config import require
from tocsr.deploy.color_fix import color_fixed
from tocsr.deploy.formats import DEEP, check_size
from tocsr.deploy.huge import Allocate, check_huge, header, read_huge, scratch, write_huge
from tocsr.deploy.image_files import Picture, decode_image, encode_image, read_image, write_image
from tocsr.deploy.memory import available_bytes, check_memory, needed_bytes
from tocsr.deploy.metadata import with_history
from tocsr.deploy.pixels import to_8_bits, to_16_bits
from tocsr.deploy.resizing import (
    Size,
    enlarged,
    pass_sizes,
    resized,
    result_size,
    without_hidden_colors,
)
from tocsr.deploy.upscale_jobs import STDIO, Job
from tocsr.errors import ExitCode, TocsrError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tocsr.deploy.configs import UpscaleConfig
    from tocsr.deploy.upscaler import Upscaler
    from tocsr.runs import Report

LARGE = 2**25  # pixels that are made, beside which no others are held: 0.1 GB of 8 bits


@dataclass(frozen=True)
class Steps:
    """The steps of a photo, one after the other.

    Args:
        upscaler: The model.
        config: What was asked for.
        made: How results are made, for their metadata; empty strips them.
        report: Called for each tile.
    """

    upscaler: Upscaler
    config: UpscaleConfig
    made: dict[str, Any]
    report: Report

    def read(self, job: Job) -> Picture | None:
        """The photo; None for a large one."""
        with _memory_for(job):
            deep = _is_to_be_deep(job, self.config.depth)
            return None if self._makes_many(job) else _read(job.source, deep)

    def is_large(self, job: Job, photo: Picture | None) -> bool:
        """Whether the memory may not hold the result beside another."""
        del job
        return photo is None

    def work(self, job: Job, photo: Picture | None) -> tuple[Picture, bool]:
        """The result with what it says of itself, and whether it lies in a file.

        Raises:
            TocsrError: The format or the memory cannot hold the result; before the network runs.
        """
        with _memory_for(job):
            in_file = photo is None and exceeds_memory(job, self.config, self.upscaler.upscale)
            new: Allocate = partial(scratch, folder=job.target.parent) if in_file else np.empty
            deep = _is_to_be_deep(job, self.config.depth)
            if in_file:
                check_huge(job.file_format)
                photo = read_huge(job.source, deep, new)
            elif photo is None:
                photo = _read(job.source, deep)
            result = upscaled(self.upscaler, photo, job, self.config, self.report, new)
        if not self.made:
            return replace(result, exif=None, dpi=None), in_file
        size = {"width": result.rgb.shape[1], "height": result.rgb.shape[0]}
        return replace(result, exif=with_history(result.exif, self.made | size)), in_file

    def write(self, job: Job, result: tuple[Picture, bool]) -> None:
        """Writes the result."""
        picture, in_file = result
        with _memory_for(job):
            if job.target != STDIO:
                write = write_huge if in_file else write_image
                write(job.target, picture, job.file_format, self.config.quality)
                return
            sys.stdout.buffer.write(encode_image(picture, job.file_format, self.config.quality))
            sys.stdout.buffer.flush()

    def _makes_many(self, job: Job) -> bool:
        """Whether the result, or what the network makes on the way to it, is large."""
        found = None if job.source == STDIO else header(job.source)
        if found is None:
            return False
        size, upscale = (found.height, found.width), self.upscaler.upscale
        target = _target(size, self.config, upscale)
        return max(map(_pixels, (target, _largest_pass(size, target, upscale)))) > LARGE


@contextmanager
def _memory_for(job: Job) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise TocsrError(
            f"the memory must hold {job.source} and its result, it does not",
            "crop the photo",
            ExitCode.RESOURCES,
        ) from error


def _read(source: Path, deep: bool | None) -> Picture:
    """A photo with the bits per channel that its result is to have; see `_is_to_be_deep`."""
    if source == STDIO:
        content = io.BytesIO(sys.stdin.buffer.read())
        picture = decode_image(content, "standard input", deep is not False)
    else:
        picture = read_image(source, deep is not False)
    to_depth = to_16_bits if deep or (deep is None and picture.is_deep) else to_8_bits
    alpha = None if picture.alpha is None else to_depth(picture.alpha)
    return replace(picture, rgb=to_depth(picture.rgb), alpha=alpha)


def _is_to_be_deep(job: Job, depth: str) -> bool | None:
    """Whether a result is to have 16 bits per channel; None for what its photo has."""
    holds = job.file_format in DEEP
    require(holds or depth != "16", f"depth 16 needs a PNG or TIFF result, got {job.target}")
    return {"16": True, "8": False}.get(depth) if holds else False


def exceeds_memory(job: Job, config: UpscaleConfig, upscale: int) -> bool:
    """Whether a photo goes in strips: by the model's factor, and too large for Pillow or memory."""
    asked = config.upscale in (0, upscale) and not (config.width or config.height)
    found = header(job.source) if asked and STDIO not in (job.source, job.target) else None
    if found is None or not found.in_strips:
        return False
    target, there = (upscale * found.height, upscale * found.width), available_bytes()
    needed = needed_bytes(target, target, 2 if found.deep else 1, 3)
    most, pixels = Image.MAX_IMAGE_PIXELS, found.height * found.width
    return (most is not None and pixels > most) or (there is not None and needed > there)


def _target(size: Size, config: UpscaleConfig, upscale: int) -> Size:
    """(H, W) of the result of a photo of this size."""
    return result_size(*size, config.upscale or upscale, config.width, config.height)


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def _largest_pass(size: Size, target: Size, upscale: int) -> Size:
    """(H, W) of the largest image that the network makes."""
    starts = pass_sizes(size, target, upscale)
    return max(((upscale * high, upscale * wide) for high, wide in starts), key=_pixels)


def upscaled(
    upscaler: Upscaler,
    picture: Picture,
    job: Job,
    config: UpscaleConfig,
    report: Report,
    new: Allocate = np.empty,
) -> Picture:
    """The picture at the size that was asked for, its transparency by bicubic interpolation.

    Args:
        upscaler: The model.
        picture: The photo.
        job: Where it comes from and what it is to become.
        config: What was asked for.
        report: Called for each tile.
        new: What makes arrays of the result's size.

    Raises:
        TocsrError: The size is out of range, or the format or the memory cannot hold it; before
            the network runs.
    """
    target = _target(picture.rgb.shape[:2], config, upscaler.upscale)
    _check_result(upscaler, picture, target, job, in_memory=new is np.empty)

    def network(image: NDArray[Any], which: str) -> NDArray[Any]:
        label = f"{job.source.name}{which}"
        out = new(
            (upscaler.upscale * image.shape[0], upscaler.upscale * image.shape[1], 3), image.dtype
        )
        return upscaler(image, config.seed, config.tile, report, label, config.fidelity, out)

    alpha, rgb = picture.alpha, picture.rgb
    if alpha is not None:
        rgb = without_hidden_colors(rgb, alpha)
        alpha = resized(alpha, target, Image.Resampling.BICUBIC)
    result = enlarged(rgb, target, upscaler.upscale, network)
    if config.color_fix != "none":
        out = new(result.shape, result.dtype)
        result = color_fixed(result, rgb, config.color_fix, out)
    return replace(picture, rgb=result, alpha=alpha)


def _check_result(
    upscaler: Upscaler, picture: Picture, target: Size, job: Job, in_memory: bool
) -> None:
    """Raises an error where the format, or the memory if it must, cannot hold the result."""
    channel_bytes = picture.rgb.itemsize
    num_channels = 3 if picture.alpha is None else 4
    check_size(*target, job.file_format, channel_bytes * num_channels)
    if in_memory:
        largest = _largest_pass(picture.rgb.shape[:2], target, upscaler.upscale)
        check_memory(needed_bytes(target, largest, channel_bytes, num_channels), target)
