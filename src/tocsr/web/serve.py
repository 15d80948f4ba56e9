"""Serves the page and the API that upscale photos, until it is stopped."""

from __future__ import annotations

import signal
import socket
import time
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import uvicorn
from PIL import Image

from tocsr.deploy.upscaler import Upscaler
from tocsr.errors import TocsrError
from tocsr.runs import silent
from tocsr.web.app import make_app
from tocsr.web.jobs import WebJobs

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from tocsr.runs import Report
    from tocsr.web.configs import ServeConfig

_MAX_CONNECTIONS = 256  # more are answered with 503
_GRACE_SECONDS = 2  # for answers under way when the server is stopped


def run(config: ServeConfig, report: Report = silent) -> dict[str, Any]:
    """Serves until Ctrl-C or SIGTERM; then all photos and results are removed.

    Args:
        config: What was asked for.
        report: Called at the start with the address, then with photos ended and taken.

    Returns:
        `photos`, how many were done, refused by their content or cancelled; `seconds`.

    Raises:
        TocsrError: The address cannot be listened on (USAGE); MODEL.
    """
    started, num_photos = time.monotonic(), 0
    upscaler = Upscaler.from_pretrained(config.model, config.num_threads)
    listener = _listen(config.host, config.port)
    url = _url(config.host, listener.getsockname()[1])

    def count(ended: int, taken: int) -> None:
        nonlocal num_photos
        num_photos = ended
        report(f"{url} (Ctrl-C ends it)", ended, taken, {})

    # Results are read again for their previews. Photos are held to max_pixels before.
    most = max(config.max_pixels, config.max_result_pixels)
    Image.MAX_IMAGE_PIXELS = max(most, Image.MAX_IMAGE_PIXELS or 0)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what service managers send
    with (
        suppress(KeyboardInterrupt),
        TemporaryDirectory(prefix="tocsr-serve-") as folder,
        closing(WebJobs(upscaler, config, Path(folder), count)) as jobs,
    ):
        count(0, 0)
        server = _server(make_app(jobs, lambda: server.should_exit))
        server.run(sockets=[listener])
    return {"photos": num_photos, "seconds": round(time.monotonic() - started, 3)}


def _server(app: Starlette) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,  # warnings and errors go to standard error
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise TocsrError(
            f"cannot listen on {_url(host, port)}: {error.strerror}", "choose another --port"
        ) from error


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
