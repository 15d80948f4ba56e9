"""Upscales files: every photo in order, from its bytes to those of its result."""

from __future__ import annotations

import io
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tocsr.config import require
from tocsr.deploy.color_fix import color_fixed
from tocsr.deploy.deep_files import require_deep
from tocsr.deploy.formats import DEEP, check_size
from tocsr.deploy.huge import Allocate, header, read_huge, scratch, write_huge
from tocsr.deploy.image_files import Picture, decode_image, encode_image, read_image, write_image
from tocsr.deploy.memory import available_bytes, check_memory, needed_bytes
from tocsr.deploy.metadata import model_checksum, with_history
from tocsr.deploy.overlap import overlapped
from tocsr.deploy.pixels import to_8_bits, to_16_bits
from tocsr.deploy.resizing import (
    Size,
    enlarged,
    pass_sizes,
    resized,
    result_size,
    without_hidden_colors,
)
from tocsr.deploy.upscale_jobs import STDIO, Job, plan
from tocsr.deploy.upscaler import SHIPPED_MODEL, Upscaler
from tocsr.errors import ExitCode, TocsrError, why_unwritten
from tocsr.runs import silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tocsr.deploy.configs import UpscaleConfig
    from tocsr.runs import Report

LARGE = 2**25  # pixels of a result, beside which no other is held: 0.1 GB of 8 bits


def run(config: UpscaleConfig, report: Report = silent) -> dict[str, Any]:
    """Upscales every photo that has no result yet.

    A photo that cannot be read, held in memory or written is named in `failed` and the others go
    on; a single photo without memory, a full disk and a broken model end the run.

    Returns:
        `done` and `skipped`, lists of result files; `failed`, from photo to reason; `seconds`.
        Where the result goes to standard output, `failed` alone.

    Raises:
        TocsrError: No photo found, results that would overwrite (USAGE); MODEL; RESOURCES.
    """
    started = time.monotonic()
    upscaler = Upscaler.from_pretrained(
        config.model, config.num_threads, config.backend, config.device
    )
    upscaler.check_fidelity(config.fidelity)
    if config.depth == "16":
        require_deep("a result")
    jobs = plan(config, upscaler.upscale)
    made = made_with(config, upscaler)
    done: list[str] = []
    skipped: list[str] = []
    failed: dict[str, str] = {}

    def wanted() -> Iterator[Job]:
        for job in jobs:
            if job.target.is_file() and not config.overwrite and job.target != STDIO:
                skipped.append(str(job.target))
            else:
                yield job

    steps = _Steps(upscaler, config, made, report)
    results = overlapped(wanted(), steps.read, steps.work, steps.write, steps.is_large)
    with closing(results):
        for job, written in results:
            try:
                written.result()
                done.append(str(job.target))
            except TocsrError as error:
                alone = len(jobs) == 1 and error.code is ExitCode.RESOURCES
                if error.code is ExitCode.MODEL or alone:
                    raise
                failed[str(job.source)] = str(error)
            except OSError as error:
                failed[str(job.source)] = why_unwritten(str(job.target), error, "results")
    if jobs[0].target == STDIO:
        return {"failed": failed}
    seconds = round(time.monotonic() - started, 3)
    return {"done": done, "skipped": skipped, "failed": failed, "seconds": seconds}


def made_with(config: UpscaleConfig, upscaler: Upscaler) -> dict[str, Any]:
    """What a result says of how it was made; empty where metadata is stripped."""
    if config.strip_metadata:
        return {}
    return {
        "model": model_checksum(config.model or SHIPPED_MODEL),
        "engine": upscaler.engine,
        "upscale": config.upscale or upscaler.upscale,
        "seed": config.seed,
        "fidelity": config.fidelity,
        "color_fix": config.color_fix,
        "tile": config.tile,
    }


def upscale_file(
    upscaler: Upscaler, job: Job, config: UpscaleConfig, made: dict[str, Any], report: Report
) -> None:
    """Reads, upscales and writes one photo.

    Args:
        upscaler: The model.
        job: The photo.
        config: What was asked for.
        made: How the result was made, for its metadata; empty strips them.
        report: Called for each tile.
    """
    steps = _Steps(upscaler, config, made, report)
    steps.write(job, steps.work(job, steps.read(job)))


@dataclass(frozen=True)
class _Steps:
    """What is done to a photo, one after the other; the arguments are those of `upscale_file`."""

    upscaler: Upscaler
    config: UpscaleConfig
    made: dict[str, Any]
    report: Report

    def read(self, job: Job) -> tuple[Picture, Allocate]:
        """The photo, and what makes arrays of its result's size."""
        with _memory_for(job):
            huge = exceeds_memory(job, self.config, self.upscaler.upscale)
            deep = _is_to_be_deep(job, self.config.depth)
            new: Allocate = partial(scratch, folder=job.target.parent) if huge else np.empty
            return read_huge(job.source, deep, new) if huge else _read(job.source, deep), new

    def is_large(self, job: Job, photo: tuple[Picture, Allocate]) -> bool:
        """Whether the memory may not hold the result beside another."""
        del job
        height, width, _ = photo[0].rgb.shape
        return height * width * self.upscaler.upscale**2 > LARGE or photo[1] is not np.empty

    def work(self, job: Job, photo: tuple[Picture, Allocate]) -> tuple[Picture, Allocate]:
        """The result, with what it says of itself."""
        picture, new = photo
        with _memory_for(job):
            result = upscaled(self.upscaler, picture, job, self.config, self.report, new)
        if not self.made:
            return replace(result, exif=None, dpi=None), new
        size = {"width": result.rgb.shape[1], "height": result.rgb.shape[0]}
        return replace(result, exif=with_history(result.exif, self.made | size)), new

    def write(self, job: Job, result: tuple[Picture, Allocate]) -> None:
        """Writes the result."""
        picture, new = result
        with _memory_for(job):
            if job.target != STDIO:
                write = write_image if new is np.empty else write_huge
                write(job.target, picture, job.file_format, self.config.quality)
                return
            sys.stdout.buffer.write(encode_image(picture, job.file_format, self.config.quality))
            sys.stdout.buffer.flush()


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
    if found is None:
        return False
    height, width, deep = found
    target, there = (upscale * height, upscale * width), available_bytes()
    needed = needed_bytes(target, target, 2 if deep else 1, 3)
    too_many = Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS
    return too_many or (there is not None and needed > there)


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
    height, width, _ = picture.rgb.shape
    asked = config.upscale or upscaler.upscale
    target = result_size(height, width, asked, config.width, config.height)
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
    height, width, _ = picture.rgb.shape
    sides = pass_sizes((height, width), target, upscaler.upscale)
    made = [(upscaler.upscale * high, upscaler.upscale * wide) for high, wide in sides]
    largest = max(made, key=lambda size: size[0] * size[1])
    if in_memory:
        check_memory(needed_bytes(target, largest, channel_bytes, num_channels), target)
