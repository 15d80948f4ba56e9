"""What a request brings: a photo, and the options for it."""

from __future__ import annotations

import asyncio
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request

from tocsr.config import require
from tocsr.deploy.configs import UpscaleConfig
from tocsr.errors import TocsrError, did_you_mean
from tocsr.web.photo import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import Message, Receive

    from tocsr.web.configs import ServeConfig

_OPTIONS = (
    *("upscale", "width", "height", "fidelity", "color_fix", "seed"),
    *("format", "quality", "depth", "strip_metadata"),
)
_HINTS = get_type_hints(UpscaleConfig)


def read_options(
    query: Iterable[tuple[str, str]], photo: Path, model: Path | None
) -> UpscaleConfig:
    """The options of `tocsr upscale` that a query asks for.

    Args:
        query: Names and values.
        photo: The photo's file.
        model: The model folder.

    Raises:
        TocsrError: An unknown option or a value that does not fit.
    """
    values: dict[str, Any] = {}
    for name, text in query:
        if name == "name":  # the photo's, not an option
            continue
        if name not in _OPTIONS:
            raise TocsrError(f"no option '{name}'", did_you_mean(name, _OPTIONS))
        values[name] = _value(name, text)
    return UpscaleConfig(inputs=[photo], model=model, **values)


def _value(name: str, text: str) -> Any:
    kind = _HINTS[name]
    if get_origin(kind) is Literal:
        known = get_args(kind)
        require(text in known, f"{name} must be one of {', '.join(known)}, got '{text}'")
        return text
    if kind is bool:
        require(text in ("true", "false"), f"{name} must be true or false, got '{text}'")
        return text == "true"
    try:
        return kind(text)
    except ValueError as error:
        raise TocsrError(f"{name} must be a number, got '{text}'") from error


def file_name(sent: str) -> str:
    """A name for a photo's file that is safe on a disk: no folder, no mark, 40 characters."""
    base = re.split(r"[/\\]", sent)[-1]
    return re.sub(r"[^\w. -]", "_", base)[-40:].strip(" .-") or "photo"


async def received(request: Request, folder: Path, limits: ServeConfig) -> Path:
    """Writes the photo that a request brings, as its body or as the one file of a form.

    Args:
        request: The request, its body unread.
        folder: Where the photo goes.
        limits: How many bytes are taken, and for how long.

    Returns:
        The photo's file.

    Raises:
        TocsrError: Too many bytes (413), too slow (408), broken off or no file (400).
    """
    max_bytes = limits.max_upload_mb * 10**6
    if int(request.headers.get("content-length", 0)) > max_bytes:
        raise _too_large(max_bytes)  # at once; what comes without this word is counted
    counted = Request(request.scope, _at_most(request.receive, max_bytes))
    try:
        async with asyncio.timeout(limits.max_seconds):
            return await _written(counted, folder)
    except TimeoutError as error:
        raise RequestError(
            408, f"a photo must arrive in {limits.max_seconds} seconds, this did not"
        ) from error
    except ClientDisconnect as error:
        raise RequestError(400, "a photo must arrive whole, this did not") from error


async def _written(request: Request, folder: Path) -> Path:
    form = request.headers.get("content-type", "").startswith("multipart/form-data")
    if not form:
        path = folder / file_name(request.query_params.get("name", ""))
        with path.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        return path
    async with request.form(max_files=1, max_fields=0) as fields:
        upload = next(iter(fields.values()), None)
        if not isinstance(upload, UploadFile):
            raise TocsrError("a form must hold one file, it holds none")
        path = folder / file_name(upload.filename or "")
        with path.open("wb") as file:
            await run_in_threadpool(shutil.copyfileobj, upload.file, file)
    return path


def _at_most(receive: Receive, max_bytes: int) -> Receive:
    """A `receive` that counts the body while it comes, whatever `Content-Length` says.

    Raises:
        RequestError: From the call that brings more than `max_bytes`.
    """
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > max_bytes:
            raise _too_large(max_bytes)
        return message

    return counted


def _too_large(max_bytes: int) -> RequestError:
    """The refusal of a photo's file by its bytes."""
    return RequestError(413, f"a photo must have at most {max_bytes / 1e6:g} MB, this one has more")
