"""Upscales files: every photo in order, from its bytes to those of its result."""

from __future__ import annotations

import io
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from tocsr.config import require
from tocsr.deploy.color_fix import color_fixed
from tocsr.deploy.deep_files import require_deep
from tocsr.deploy.formats import DEEP, check_size
from tocsr.deploy.image_files import Picture, decode_image, encode_image, read_image, write_image
from tocsr.deploy.memory import check_memory, needed_bytes
from tocsr.deploy.metadata import model_checksum, with_history
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
    from numpy.typing import NDArray

    from tocsr.deploy.configs import UpscaleConfig
    from tocsr.runs import Report


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
    upscaler = Upscaler.from_pretrained(config.model, config.num_threads)
    upscaler.check_fidelity(config.fidelity)
    if config.depth == "16":
        require_deep("a result")
    jobs = plan(config, upscaler.upscale)
    made = _made_with(config, upscaler)
    done: list[str] = []
    skipped: list[str] = []
    failed: dict[str, str] = {}
    for job in jobs:
        if job.target.is_file() and not config.overwrite and job.target != STDIO:
            skipped.append(str(job.target))
            continue
        try:
            upscale_file(upscaler, job, config, made, report)
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


def _made_with(config: UpscaleConfig, upscaler: Upscaler) -> dict[str, Any]:
    """What a result says of how it was made; empty where metadata is stripped."""
    if config.strip_metadata:
        return {}
    return {
        "model": model_checksum(config.model or SHIPPED_MODEL),
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
    try:
        picture = _with_depth(_read(job.source, config.depth != "8"), job, config.depth)
        result = upscaled(upscaler, picture, job, config, report)
        if made:
            size = {"width": result.rgb.shape[1], "height": result.rgb.shape[0]}
            result = replace(result, exif=with_history(result.exif, made | size))
        else:
            result = replace(result, exif=None, dpi=None)
        if job.target != STDIO:
            write_image(job.target, result, job.file_format, config.quality)
            return
        sys.stdout.buffer.write(encode_image(result, job.file_format, config.quality))
        sys.stdout.buffer.flush()
    except MemoryError as error:
        raise TocsrError(
            f"the memory must hold {job.source} and its result, it does not",
            "crop the photo",
            ExitCode.RESOURCES,
        ) from error


def _read(source: Path, deep: bool) -> Picture:
    if source == STDIO:
        return decode_image(io.BytesIO(sys.stdin.buffer.read()), "standard input", deep)
    return read_image(source, deep)


def _with_depth(picture: Picture, job: Job, depth: str) -> Picture:
    """The picture with the bits per channel that its result is to have."""
    holds = job.file_format in DEEP
    require(holds or depth != "16", f"depth 16 needs a PNG or TIFF result, got {job.target}")
    deep = holds and (depth == "16" or (depth == "auto" and picture.is_deep))
    to_depth = to_16_bits if deep else to_8_bits
    alpha = None if picture.alpha is None else to_depth(picture.alpha)
    return replace(picture, rgb=to_depth(picture.rgb), alpha=alpha)


def upscaled(
    upscaler: Upscaler, picture: Picture, job: Job, config: UpscaleConfig, report: Report
) -> Picture:
    """The picture at the size that was asked for, its transparency by bicubic interpolation.

    Raises:
        TocsrError: The size is out of range, or the format or the memory cannot hold it; before
            the network runs.
    """
    height, width, _ = picture.rgb.shape
    asked = config.upscale or upscaler.upscale
    target = result_size(height, width, asked, config.width, config.height)
    _check_result(upscaler, picture, target, job)

    def network(image: NDArray[Any], which: str) -> NDArray[Any]:
        label = f"{job.source.name}{which}"
        return upscaler(image, config.seed, config.tile, report, label, config.fidelity)

    alpha, rgb = picture.alpha, picture.rgb
    if alpha is not None:
        rgb = without_hidden_colors(rgb, alpha)
        alpha = resized(alpha, target, Image.Resampling.BICUBIC)
    result = color_fixed(enlarged(rgb, target, upscaler.upscale, network), rgb, config.color_fix)
    return replace(picture, rgb=result, alpha=alpha)


def _check_result(upscaler: Upscaler, picture: Picture, target: Size, job: Job) -> None:
    """Raises an error where the format or the memory cannot hold the result."""
    channel_bytes = picture.rgb.itemsize
    num_channels = 3 if picture.alpha is None else 4
    check_size(*target, job.file_format, channel_bytes * num_channels)
    height, width, _ = picture.rgb.shape
    sides = pass_sizes((height, width), target, upscaler.upscale)
    made = [(upscaler.upscale * high, upscaler.upscale * wide) for high, wide in sides]
    largest = max(made, key=lambda size: size[0] * size[1])
    check_memory(needed_bytes(target, largest, channel_bytes, num_channels), target)
