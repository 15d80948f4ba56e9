"""Upscales files: every photo in order, from its bytes to those of its result."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from tocsr.deploy.metadata import model_checksum
from tocsr.deploy.overlap import overlapped
from tocsr.deploy.upscale_jobs import STDIO, Job, plan
from tocsr.deploy.upscale_steps import Steps
from tocsr.deploy.upscaler import Upscaler
from tocsr.errors import ExitCode, TocsrError, why_unwritten
from tocsr.preset_files import SHIPPED_MODEL
from tocsr.runs import silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
    upscaler = Upscaler.from_pretrained(
        config.model, config.num_threads, config.backend, config.device
    )
    upscaler.check_fidelity(config.fidelity)
    jobs = plan(config, upscaler.upscale)
    made = made_with(config, upscaler, model_checksum(config.model or SHIPPED_MODEL))
    done: list[str] = []
    skipped: list[str] = []
    failed: dict[str, str] = {}

    def wanted() -> Iterator[Job]:
        for job in jobs:
            if has_result(job, config):
                skipped.append(str(job.target))
            else:
                yield job

    num_photos = sum(not has_result(job, config) for job in jobs)
    told = with_time_left(report, num_photos, lambda: len(done) + len(failed))
    steps = Steps(upscaler, config, made, told)
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


def has_result(job: Job, config: UpscaleConfig) -> bool:
    """Whether a photo's result is there and stays."""
    return job.target != STDIO and job.target.is_file() and not config.overwrite


def with_time_left(report: Report, num_photos: int, num_finished: Callable[[], int]) -> Report:
    """The report that says of several photos how many are finished, and the minutes left.

    As if those to come took as long as those before, from now on.

    Args:
        report: What is told.
        num_photos: How many photos are to be upscaled.
        num_finished: How many of them are.
    """
    started = time.monotonic()

    def told(label: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        finished = num_finished()
        shown: dict[str, float] = {"photos done": finished, "of": num_photos}
        if finished:
            each = (time.monotonic() - started) / finished
            shown["minutes left"] = round(each * (num_photos - finished) / 60, 1)
        report(label, done, total, {**figures, **shown})

    return told if num_photos > 1 else report


def made_with(config: UpscaleConfig, upscaler: Upscaler, model: str) -> dict[str, Any]:
    """What a result says of how it was made; empty where metadata is stripped.

    Args:
        config: What was asked for.
        upscaler: The model.
        model: Its checksum.
    """
    if config.strip_metadata:
        return {}
    return {
        "model": model,
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
    steps = Steps(upscaler, config, made, report)
    steps.write(job, steps.work(job, steps.read(job)))
