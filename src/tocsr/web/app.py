"""The HTTP API of the server and the files of its page; docs/serving.md describes it."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import FileResponse, JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import tocsr
from tocsr.deploy.formats import Format
from tocsr.errors import ExitCode, TocsrError, why_unwritten
from tocsr.web.guard import Guard
from tocsr.web.photo import AFTER, BEFORE, RequestError
from tocsr.web.request import read_options, received

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from tocsr.web.jobs import WebJob, WebJobs

PAGE = Path(tocsr.__file__).parent / "assets" / "web"
_STATUS = {ExitCode.USAGE: 400, ExitCode.MODEL: 500, ExitCode.RESOURCES: 507}
_RETRY_SECONDS = 5  # what a client that finds the queue full is told to wait
_POLL_SECONDS = 0.05
_PRIVATE = {"Cache-Control": "no-store"}


class Api:
    """Answers the requests.

    Args:
        jobs: The queue.
        is_ending: Whether answers are not to be waited for any longer.
    """

    def __init__(self, jobs: WebJobs, is_ending: Callable[[], bool]) -> None:
        self.jobs, self.is_ending = jobs, is_ending
        self.limits = jobs.limits

    async def info(self, _: Request) -> Response:
        """What the page and a client need to know beforehand, and how busy the server is."""
        names = ("max_pixels", "max_result_pixels", "max_seconds", "max_queue", "keep_seconds")
        limits = {name: getattr(self.limits, name) for name in names}
        return JSONResponse(
            {
                "version": tocsr.__version__,
                "upscale": self.jobs.upscaler.upscale,
                "formats": get_args(Format),
                "limits": {"max_upload_bytes": self.limits.max_upload_mb * 10**6, **limits},
                **self.jobs.counts(),
            },
            headers=_PRIVATE,
        )

    async def create(self, request: Request) -> Response:
        """Takes a photo; answers before it is upscaled."""
        job = await self._take(request)
        headers = {"Location": f"/api/jobs/{job.id}", **_PRIVATE}
        return JSONResponse(self._told(job), 202, headers)

    async def upscale(self, request: Request) -> Response:
        """Takes a photo and answers with its result; a client that goes away cancels it."""
        job = await self._take(request)
        try:
            while not job.ended:
                if self.is_ending():
                    raise RequestError(503, "the server is being stopped")
                if await request.is_disconnected():
                    break
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            if not job.ended:
                self.jobs.cancel(job)
        if job.error is not None:
            raise job.error

        async def forget() -> None:  # nobody knows its id
            self.jobs.cancel(job)

        return self._result(job, BackgroundTask(forget))

    async def show(self, request: Request) -> Response:
        """Where a photo stands."""
        return JSONResponse(self._told(self._asked(request)), headers=_PRIVATE)

    async def cancel(self, request: Request) -> Response:
        """Stops a photo, or removes its result."""
        job = self._asked(request)
        self.jobs.cancel(job)
        return JSONResponse(self._told(job), headers=_PRIVATE)

    async def result(self, request: Request) -> Response:
        """The file of a result."""
        return self._result(self._asked(request))

    async def preview(self, request: Request) -> Response:
        """A JPEG of a photo or a result that a browser cannot show itself."""
        name = request.path_params["which"] + ".jpg"
        path = self._asked(request).folder / name
        if name not in (BEFORE, AFTER) or not path.is_file():
            raise RequestError(404, "there is a preview only of what a browser cannot show")
        return FileResponse(path, headers=_PRIVATE)

    def _asked(self, request: Request) -> WebJob:
        return self.jobs.get(request.path_params["id"])

    async def _take(self, request: Request) -> WebJob:
        """Reads a photo into the queue."""
        with self.jobs.place() as folder:
            try:
                photo = await received(request, folder, self.limits)
            except OSError as error:
                reason = why_unwritten("the photo", error, "results")
                raise TocsrError(reason, code=ExitCode.RESOURCES) from error
            config = read_options(request.query_params.multi_items(), photo, self.limits.model)
            job = await run_in_threadpool(self.jobs.checked, config)
            self.jobs.add(job)
        return job

    def _result(self, job: WebJob, after: BackgroundTask | None = None) -> Response:
        path = job.files.target
        if job.state != "done" or not path.is_file():
            raise RequestError(409, f"a result is there once the job is done, it is {job.state}")
        return FileResponse(path, filename=path.name, headers=_PRIVATE, background=after)

    def _told(self, job: WebJob) -> dict[str, Any]:
        """A job as JSON."""
        return {
            "id": job.id,
            "state": job.state,
            "position": self.jobs.position(job),
            "progress": round(job.progress, 4),
            "seconds": round(job.seconds, 3),
            "width": job.result_size[1],
            "height": job.result_size[0],
            "result": _told_result(job) if job.state == "done" else None,
            "error": None if job.error is None else plain(job.error, self.jobs.folder),
        }


def _told_result(job: WebJob) -> dict[str, Any]:
    here = f"/api/jobs/{job.id}"
    previews = [path for path in (job.folder / BEFORE, job.folder / AFTER) if path.is_file()]
    return {
        "name": job.files.target.name,
        "bytes": job.files.target.stat().st_size,
        "url": f"{here}/result",
        "previews": {path.stem: f"{here}/{path.stem}" for path in previews},
    }


def plain(error: TocsrError, folder: Path) -> str:
    """An error in one line, without the jobs' folders and the command line's dashes.

    Args:
        error: What is to be said.
        folder: Of the queue.
    """
    text = re.sub(rf"{re.escape(str(folder))}/[^/]+/", "", str(error))
    return re.sub(r"(?<!\S)--(?=\w)", "", text)


async def _refusal(request: Request, error: Exception) -> Response:
    """The answer to what is refused."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    assert isinstance(error, TocsrError)
    status = error.status if isinstance(error, RequestError) else _STATUS[error.code]
    headers = {"Retry-After": str(_RETRY_SECONDS)} if status == 429 else None
    return JSONResponse({"error": plain(error, request.app.state.folder)}, status, headers)


async def _failure(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "the server failed, its log says how"}, 500)


def make_app(jobs: WebJobs, is_ending: Callable[[], bool] = lambda: False) -> Starlette:
    """The application; its end closes the queue.

    Args:
        jobs: The queue.
        is_ending: Whether the server is being stopped.
    """

    async def sweep() -> None:
        while True:
            await asyncio.sleep(1)
            jobs.sweep()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(sweep())
        yield
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
        await run_in_threadpool(jobs.close)

    api = Api(jobs, is_ending)
    routes = [
        Route("/api/info", api.info),
        Route("/api/upscale", api.upscale, methods=["POST"]),
        Route("/api/jobs", api.create, methods=["POST"]),
        Route("/api/jobs/{id}", api.show, methods=["GET"]),
        Route("/api/jobs/{id}", api.cancel, methods=["DELETE"]),
        Route("/api/jobs/{id}/result", api.result),
        Route("/api/jobs/{id}/{which}", api.preview),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, allowed_hosts=jobs.limits.allowed_hosts)],
        exception_handlers={
            TocsrError: _refusal,
            HTTPException: _refusal,
            Exception: _failure,
        },
        lifespan=lifespan,
    )
    app.state.folder = jobs.folder
    return app
