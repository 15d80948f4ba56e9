"""Makes pairs for training and evaluation: each photo and its low-resolution image, as files."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tocsr.config import require
from tocsr.data.degradation.settings import load_degradation
from tocsr.data.degrade import degrade
from tocsr.data.images import to_tensor, to_uint8
from tocsr.deploy.image_files import Picture, list_images, read_image, write_image
from tocsr.deploy.preview import preview
from tocsr.devices import pick_device
from tocsr.errors import TocsrError, why_unwritten
from tocsr.files import read_json, whole_file, write_json
from tocsr.restoration import BICUBIC
from tocsr.runs import silent

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tocsr.deploy.configs import DegradeConfig
    from tocsr.runs import Report


@dataclass(frozen=True)
class Job:
    """One photo.

    Args:
        source: The file to read.
        name: Its path below the input folder, which its randomness is a function of.
        lr: The low-resolution image to write.
        hr: The photo to write, cropped.
    """

    source: Path
    name: str
    lr: Path
    hr: Path

    @property
    def is_done(self) -> bool:
        """Whether both files are there."""
        return self.lr.is_file() and self.hr.is_file()


def run(config: DegradeConfig, report: Report = silent) -> dict[str, Any]:
    """Makes the pair of every photo that has none yet, `pairs.json` and `preview.png`.

    A photo that cannot be read or is too small is named in `failed` and the others go on.

    Returns:
        `done` and `skipped`, lists of low-resolution files; `failed`, from photo to reason; the
        `preview`; `seconds`.

    Raises:
        TocsrError: No photo found, results that would overwrite, other settings than those the
            folder was begun with (USAGE); a full disk (RESOURCES).
    """
    started = time.monotonic()
    pick_device("cpu", config.num_threads)
    jobs = plan(config)
    _record(config)
    done: list[str] = []
    skipped: list[str] = []
    failed: dict[str, str] = {}
    for number, job in enumerate(jobs):
        if job.is_done and not config.overwrite:
            skipped.append(str(job.lr))
            continue
        try:
            degrade_file(job, config)
            done.append(str(job.lr))
        except TocsrError as error:
            failed[str(job.source)] = str(error)
        except OSError as error:
            failed[str(job.source)] = why_unwritten(f"the pair {job.lr}", error, "pairs")
        report("degrading", number + 1, len(jobs), {})
    result: dict[str, Any] = {"done": done, "skipped": skipped, "failed": failed}
    if pairs := [(job.name, job.lr, job.hr) for job in jobs if job.is_done]:
        result["preview"] = str(config.output / "preview.png")
        with whole_file(config.output / "preview.png") as part:
            preview(pairs, config.factor).save(part, "PNG")
    return {**result, "seconds": round(time.monotonic() - started, 3)}


def _record(config: DegradeConfig) -> None:
    """Writes how the pairs are made, and refuses a folder whose pairs were made otherwise."""
    path = config.output / "pairs.json"
    settings = None
    if config.degradation != BICUBIC:
        settings = asdict(load_degradation(config.degradation))
    now = {"factor": config.factor, "seed": config.seed, "degradation": settings or BICUBIC}
    now = json.loads(json.dumps(now))  # tuples are lists, as in the file
    if path.exists():
        before = read_json(path)
        differing = [key for key in now if before.get(key) != now[key]]
        require(
            not differing,
            f"the pairs in {config.output} were made with another {' and '.join(differing)}",
            "name another --output, or remove this one",
        )
    write_json(path, now)


def degrade_file(job: Job, config: DegradeConfig) -> None:
    """Reads one photo, and writes it cropped and reduced; transparency and EXIF are left out."""
    picture = read_image(job.source)
    rgb = cropped(picture, config.factor, job.source)
    lr = degrade(
        to_tensor(rgb)[None], config.factor, config.degradation, config.seed, [index_of(job.name)]
    )
    write_image(job.hr, Picture(rgb, icc=picture.icc), "png")
    write_image(job.lr, Picture(to_uint8(lr[0]), icc=picture.icc), "png")


def cropped(picture: Picture, factor: int, source: Path) -> NDArray[np.uint8]:
    """The upper left part of a photo whose sides are multiples of the factor."""
    height, width, _ = picture.rgb.shape
    require(
        min(height, width) >= factor,
        f"sides must be at least {factor} pixels, {source} is {width} x {height}",
    )
    return np.array(picture.rgb[: height - height % factor, : width - width % factor])


def index_of(name: str) -> int:
    """A photo's sample index, by its name alone: other photos beside it change nothing."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def plan(config: DegradeConfig) -> list[Job]:
    """What to read and where to write it, in order, each photo once.

    Raises:
        TocsrError: No photo found; a pair would overwrite a photo or another pair.
    """
    jobs: list[Job] = []
    seen: set[Path] = set()
    for path in config.inputs:
        listed = list_images(path)
        if path.is_dir():
            listed = _without_results(path, listed, config.output)
        for file in listed:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                relative = file.relative_to(path if path.is_dir() else file.parent)
                jobs.append(_job(file, relative, config.output))
    where = ", ".join(str(path) for path in config.inputs)
    require(len(jobs) > 0, f"inputs must hold an image file, none found in {where}")
    _check_targets(jobs)
    return jobs


def _without_results(folder: Path, files: list[Path], output: Path) -> list[Path]:
    """The files found in a folder that an earlier run of this command did not make."""
    output = output.resolve()
    if folder.resolve() not in (output, *output.parents):
        return files
    made = (output / "lr", output / "hr", output / "preview.png")
    return [file for file in files if not any(file.resolve().is_relative_to(m) for m in made)]


def _job(file: Path, relative: Path, output: Path) -> Job:
    name = relative.with_suffix(".png")
    return Job(file, relative.as_posix(), output / "lr" / name, output / "hr" / name)


def _check_targets(jobs: list[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    source_of: dict[Path, Path] = {}
    for job in jobs:
        for target in (job.lr, job.hr):
            require(
                target.resolve() not in sources,
                f"a pair must not overwrite a photo, {job.source} would be written to {target}",
                "name another --output",
            )
        other = source_of.setdefault(job.lr.resolve(), job.source)
        require(
            other == job.source,
            f"each photo needs a pair of its own, {other} and {job.source} would both be {job.lr}",
            "name an --output folder for each",
        )
