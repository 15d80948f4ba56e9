"""Upscales files: which photo goes where, and all of them in order."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tocsr.config import require
from tocsr.deploy.image_files import (
    FORMAT_OF_SUFFIX,
    Format,
    check_size,
    list_images,
    read_image,
    write_image,
)
from tocsr.deploy.upscaler import Upscaler
from tocsr.errors import ExitCode, TocsrError, is_out_of_space
from tocsr.runs import silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tocsr.deploy.configs import UpscaleConfig
    from tocsr.runs import Report


@dataclass(frozen=True)
class Job:
    """One photo.

    Args:
        source: The file to read.
        target: The file to write.
        file_format: What to write.
    """

    source: Path
    target: Path
    file_format: Format


def run(config: UpscaleConfig, report: Report = silent) -> dict[str, Any]:
    """Upscales every photo that has no result yet.

    A photo that cannot be read, held in memory or written is named in `failed` and the others go
    on; a single photo without memory, a full disk and a broken model end the run.

    Returns:
        `done` and `skipped`, lists of result files; `failed`, from photo to reason; `seconds`.

    Raises:
        TocsrError: No photo found, results that would overwrite (USAGE); MODEL; RESOURCES.
    """
    started = time.monotonic()
    upscaler = Upscaler.from_pretrained(config.model, config.num_threads)
    jobs = plan(config, upscaler.upscale)
    done: list[str] = []
    skipped: list[str] = []
    failed: dict[str, str] = {}
    for job in jobs:
        if job.target.is_file() and not config.overwrite:
            skipped.append(str(job.target))
            continue
        try:
            upscale_file(upscaler, job, config, report)
            done.append(str(job.target))
        except TocsrError as error:
            alone = len(jobs) == 1 and error.code is ExitCode.RESOURCES
            if error.code is ExitCode.MODEL or alone:
                raise
            failed[str(job.source)] = str(error)
        except OSError as error:
            reason = f"cannot write {job.target}: {error.strerror or error}"
            if is_out_of_space(error):
                hint = "make room; the finished results stay"
                raise TocsrError(reason, hint, ExitCode.RESOURCES) from error
            failed[str(job.source)] = reason
    seconds = round(time.monotonic() - started, 3)
    return {"done": done, "skipped": skipped, "failed": failed, "seconds": seconds}


def upscale_file(upscaler: Upscaler, job: Job, config: UpscaleConfig, report: Report) -> None:
    """Reads, upscales and writes one photo, its transparency by bicubic interpolation."""
    try:
        picture = read_image(job.source)
        height, width, _ = picture.rgb.shape
        check_size(height * upscaler.upscale, width * upscaler.upscale, job.file_format)
        rgb = upscaler(picture.rgb, config.seed, config.tile, report, job.source.name)
        alpha = None if picture.alpha is None else _larger(picture.alpha, upscaler.upscale)
        result = replace(picture, rgb=rgb, alpha=alpha)
        write_image(job.target, result, job.file_format, config.quality)
    except MemoryError as error:
        raise TocsrError(
            f"the memory must hold {job.source} and its result, it does not",
            "crop the photo",
            ExitCode.RESOURCES,
        ) from error


def _larger(alpha: NDArray[np.uint8], upscale: int) -> NDArray[np.uint8]:
    height, width = alpha.shape
    size = (width * upscale, height * upscale)
    return np.asarray(Image.fromarray(alpha).resize(size, Image.Resampling.BICUBIC))


def plan(config: UpscaleConfig, upscale: int) -> list[Job]:
    """What to read and where to write it, in order, each photo once.

    Raises:
        TocsrError: No photo found; the output does not fit the inputs; a result would overwrite a
            photo or another result.
    """
    sources = _sources(config, upscale)
    where = ", ".join(str(path) for path in config.inputs)
    require(len(sources) > 0, f"inputs must hold a PNG, JPEG or WebP file, none found in {where}")
    output_file = _output_file(config)
    jobs = []
    for source, relative in sources.items():
        target = output_file or _target(source, relative, config, upscale)
        jobs.append(Job(source, target, FORMAT_OF_SUFFIX[target.suffix.lower()]))
    _check_targets(jobs)
    return jobs


def _sources(config: UpscaleConfig, upscale: int) -> dict[Path, Path]:
    """Each photo and its path below the folder it was found in, without earlier results."""
    found: dict[Path, Path] = {}
    seen: set[Path] = set()
    for path in config.inputs:
        listed = list_images(path)
        if path.is_dir():
            listed = _without_results(path, listed, config, upscale)
        for file in listed:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                found[file] = file.relative_to(path) if path.is_dir() else Path(file.name)
    return found


def _without_results(
    folder: Path, files: list[Path], config: UpscaleConfig, upscale: int
) -> list[Path]:
    """The files found in a folder that an earlier run of this command did not make."""
    if config.output is None:
        results = {file.with_name(f"{file.stem}_x{upscale}") for file in files}
        return [file for file in files if file.with_suffix("") not in results]
    output = config.output.resolve()
    if folder.resolve() not in output.parents:
        return files
    return [file for file in files if output not in file.resolve().parents]


def _output_file(config: UpscaleConfig) -> Path | None:
    """The output where it is a file and not a folder.

    Raises:
        TocsrError: It looks like a file and must be a folder, or contradicts the format.
    """
    output = config.output
    if output is None or output.is_dir():
        return None
    file_format = FORMAT_OF_SUFFIX.get(output.suffix.lower())
    if file_format is None:
        require(not output.exists(), f"output must be a folder or an image file, got {output}")
        return None
    require(
        len(config.inputs) == 1 and not config.inputs[0].is_dir(),
        f"output must be a folder for several photos, got the file name {output}",
    )
    require(
        config.format in ("auto", file_format),
        f"format {config.format} and output {output} contradict each other",
        "leave --format out",
    )
    return output


def _target(source: Path, relative: Path, config: UpscaleConfig, upscale: int) -> Path:
    own_format = FORMAT_OF_SUFFIX.get(source.suffix.lower())
    if config.output is None:
        suffix = "png" if config.format == "auto" else config.format
        return source.with_name(f"{source.stem}_x{upscale}.{suffix}")
    file_format = own_format or "png" if config.format == "auto" else config.format
    kept = relative if file_format == own_format else relative.with_suffix(f".{file_format}")
    return config.output / kept


def _check_targets(jobs: list[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    source_of: dict[Path, Path] = {}
    for job in jobs:
        target = job.target.resolve()
        require(
            target not in sources,
            f"a result must not overwrite a photo, {job.source} would be written to {job.target}",
            "name another --output",
        )
        require(
            target not in source_of,
            f"each photo needs a result of its own, {source_of.get(target)} and {job.source} "
            f"would both be {job.target}",
            "name an --output folder for each",
        )
        source_of[target] = job.source
