"""The queue of the server: photos that wait, are upscaled, and have results to fetch.

Each photo has a folder of its own below one temporary folder, and is upscaled there as
`tocsr upscale` would.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from tocsr.deploy.metadata import model_checksum
from tocsr.deploy.resizing import pass_sizes, result_size
from tocsr.deploy.upscale import made_with, upscale_file
from tocsr.deploy.upscale_jobs import Job, plan
from tocsr.errors import ExitCode, TocsrError, why_unwritten
from tocsr.preset_files import SHIPPED_MODEL
from tocsr.web.photo import RequestError, check_photo, write_previews

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tocsr.deploy.configs import UpscaleConfig
    from tocsr.deploy.resizing import Size
    from tocsr.deploy.upscaler import Upscaler
    from tocsr.web.configs import ServeConfig

State = Literal["queued", "running", "done", "failed", "cancelled"]
_MAX_REMEMBERED = 256  # ended photos that can still be asked for
_log = logging.getLogger(__name__)


@dataclass(eq=False, kw_only=True)
class WebJob:
    """One photo on its way.

    Args:
        id: What it is asked for by; it cannot be guessed, so it is the key to the result too.
        config: What was asked for.
        files: The photo's file and its result's, in a folder of their own.
        photo_size: (H, W) of the photo, upright.
        result_size: (H, W) of the result.
        passes: (H, W) of what goes into each pass of the network.
        is_shown: Whether a browser can show the photo's format.
    """

    id: str
    config: UpscaleConfig
    files: Job
    photo_size: Size
    result_size: Size
    passes: list[Size]
    is_shown: bool
    future: Future[None] = field(default_factory=Future)
    stopped: threading.Event = field(default_factory=threading.Event)
    num_passes_done: int = 0
    progress: float = 0.0
    started: float = 0.0
    ended: float = 0.0

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self.files.target.parent

    @property
    def state(self) -> State:
        """Where it stands."""
        if self.stopped.is_set():
            return "cancelled"
        if not self.future.done():
            return "running" if self.future.running() else "queued"
        return "failed" if self.future.exception() else "done"

    @property
    def error(self) -> TocsrError | None:
        """Why it failed."""
        error = self.future.exception() if self.state == "failed" else None
        if error is None or isinstance(error, TocsrError):
            return error
        return RequestError(500, "the server failed, its log says how")

    @property
    def seconds(self) -> float:
        """How long it has been worked on."""
        return (self.ended or time.monotonic()) - self.started if self.started else 0.0

    def advance_(self, done: int, total: int) -> None:
        """Moves the progress on to so many tiles of this pass, by the area that is computed."""
        areas = [height * width for height, width in self.passes]
        before, now = sum(areas[: self.num_passes_done]), areas[self.num_passes_done]
        self.progress = (before + now * done / total) / sum(areas)
        self.num_passes_done += done == total and self.num_passes_done + 1 < len(areas)


class WebJobs:
    """All photos that the server has, by their id; close it at the end.

    Its methods are called from one thread, the workers are threads of their own.

    Args:
        upscaler: The model.
        limits: How much is taken, and kept how long.
        folder: An empty folder for the files.
        count: Called with photos ended and photos taken, each time one ends.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        limits: ServeConfig,
        folder: Path,
        count: Callable[[int, int], None],
    ) -> None:
        self.upscaler, self.limits, self.folder = upscaler, limits, folder
        self.model = model_checksum(limits.model or SHIPPED_MODEL)
        self._count = count
        self._jobs: dict[str, WebJob] = {}
        self._pool = ThreadPoolExecutor(limits.num_workers, "upscale")
        self._num_arriving = self._num_taken = self._num_ended = 0
        self._counting = threading.Lock()

    @contextmanager
    def place(self) -> Iterator[Path]:
        """Keeps a place in the queue while a photo arrives.

        Yields:
            A new folder for it, which is removed unless the block adds the job.

        Raises:
            RequestError: The queue is full (429).
        """
        if self._num_arriving + len(self._of("queued")) >= self.limits.max_queue:
            raise RequestError(
                429, f"the queue must have a place, all {self.limits.max_queue} are taken", "wait"
            )
        self._num_arriving += 1
        folder = self.folder / secrets.token_urlsafe(16)
        folder.mkdir()
        try:
            yield folder
        finally:
            self._num_arriving -= 1
            if folder.name not in self._jobs:
                shutil.rmtree(folder, ignore_errors=True)

    def checked(self, config: UpscaleConfig) -> WebJob:
        """The work that a photo's header says it will be; may be called from another thread.

        Raises:
            TocsrError: What `check_photo`, `plan` and `result_size` refuse.
        """
        (files,) = plan(config, self.upscaler.upscale)
        self.upscaler.check_fidelity(config.fidelity)
        is_shown, size = check_photo(files.source, self.limits.max_pixels)
        factor = config.upscale or self.upscaler.upscale
        target = result_size(*size, factor, config.width, config.height)
        if target[0] * target[1] > self.limits.max_result_pixels:
            raise RequestError(
                413,
                f"a result must have at most {self.limits.max_result_pixels} pixels, "
                f"this one would have {target[1]} x {target[0]}",
                "choose a smaller factor",
            )
        return WebJob(
            id=files.source.parent.name,
            config=config,
            files=files,
            photo_size=size,
            result_size=target,
            passes=pass_sizes(size, target, self.upscaler.upscale),
            is_shown=is_shown,
        )

    def add(self, job: WebJob) -> None:
        """Lets a photo wait for its turn."""
        self._num_taken += 1
        self._jobs[job.id] = job
        job.future = self._pool.submit(self._run, job)
        job.future.add_done_callback(lambda _: self._end(job))

    def get(self, job_id: str) -> WebJob:
        """The photo of this id.

        Raises:
            RequestError: There is none (404).
        """
        self.sweep()
        if job_id not in self._jobs:
            raise RequestError(
                404, f"no photo with this id; results are kept {self.limits.keep_seconds} seconds"
            )
        return self._jobs[job_id]

    def position(self, job: WebJob) -> int:
        """Its place among those that wait, from 1; 0 where it does not wait."""
        waiting = self._of("queued")
        return waiting.index(job) + 1 if job in waiting else 0

    def counts(self) -> dict[str, int]:
        """How many wait, and are worked on."""
        return {
            "queued": len(self._of("queued")),
            "running": sum(job.future.running() for job in self._jobs.values()),
        }

    def cancel(self, job: WebJob) -> None:
        """Takes a photo out of the queue, stops it after its tile, or forgets its result."""
        job.stopped.set()
        job.future.cancel()
        if job.ended:
            self._forget(job)

    def sweep(self) -> None:
        """Removes what is kept too long or is too much, the oldest first."""
        ended = sorted((j for j in self._jobs.values() if j.ended), key=lambda j: j.ended)
        sizes = {job.id: _folder_bytes(job.folder) for job in ended}
        total, left = sum(sizes.values()), len(ended)
        latest = next((job for job in reversed(ended) if job.state == "done"), None)
        for job in ended:
            too_old = time.monotonic() - job.ended > self.limits.keep_seconds
            too_large = total > self.limits.keep_mb * 10**6 and job is not latest and sizes[job.id]
            if too_old or too_large or left > _MAX_REMEMBERED:
                self._forget(job)
                total, left = total - sizes[job.id], left - 1

    def close(self) -> None:
        """Stops everything, after the tiles that are computed now, and removes all files."""
        for job in list(self._jobs.values()):
            self.cancel(job)
        self._pool.shutdown(wait=True, cancel_futures=True)
        for job in list(self._jobs.values()):
            self._forget(job)

    def _of(self, state: State) -> list[WebJob]:
        return [job for job in self._jobs.values() if job.state == state]

    def _forget(self, job: WebJob) -> None:
        self._jobs.pop(job.id, None)
        shutil.rmtree(job.folder, ignore_errors=True)

    def _run(self, job: WebJob) -> None:
        """Upscales one photo, in a worker."""
        job.started = time.monotonic()

        def check() -> None:
            if job.stopped.is_set():
                raise CancelledError
            if time.monotonic() - job.started > self.limits.max_seconds:
                raise RequestError(
                    504, f"a photo must be done in {self.limits.max_seconds} seconds, this is not"
                )

        def tile_done(_: str, done: int, total: int, __: Mapping[str, float], /) -> None:
            job.advance_(done, total)
            check()

        check()
        try:
            made = made_with(job.config, self.upscaler, self.model)
            upscale_file(self.upscaler, job.files, job.config, made, tile_done)
            check()
        except OSError as error:
            reason = why_unwritten(job.files.target.name, error, "results")
            raise TocsrError(reason, code=ExitCode.RESOURCES) from error
        try:
            write_previews(job.files, job.result_size, job.is_shown)
        except (TocsrError, OSError, MemoryError):  # the result is there all the same
            _log.warning("no preview of %s", job.files.target.name, exc_info=True)
        job.files.source.unlink()

    def _end(self, job: WebJob) -> None:
        """Counts a photo that is done, failed or stopped; called once for each."""
        if job.state != "done":
            shutil.rmtree(job.folder, ignore_errors=True)
        job.ended = time.monotonic()  # last: from here on its files are counted
        failure = None if job.future.cancelled() else job.future.exception()
        if failure and not isinstance(failure, TocsrError | CancelledError):
            _log.error("a photo failed", exc_info=failure)
        with self._counting:
            self._num_ended += 1
            self._count(self._num_ended, self._num_taken)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*"))
