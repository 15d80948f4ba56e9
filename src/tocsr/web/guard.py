"""Who may ask the server, and what a browser is told to keep to."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """Refuses what other sites have a browser ask, and adds the security headers to each answer.

    A site can let its own name lead to this machine (DNS rebinding) and then read the answers as
    its own. It always needs a name for that, so every IP address may be asked for, and of names
    localhost and those that are allowed. `Origin` is what a browser says of the site that asks.

    Args:
        app: What answers the rest.
        allowed_hosts: Further names of this machine.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str] = ()) -> None:
        self.app = app
        self.names = {"localhost", *(name.lower() for name in allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        if reason := self._why_refused(headers.get("host", ""), headers.get("origin")):
            refusal = JSONResponse({"error": reason}, 403)
            await refusal(scope, receive, send_guarded)
        else:
            await self.app(scope, receive, send_guarded)

    def _why_refused(self, host: str, origin: str | None) -> str:
        name = _split(f"//{host}")[0]
        if not (name in self.names or _is_address(name)):
            return (
                f"the Host must be an IP address, localhost or an allowed name, got '{name}'; "
                "start the server with --allowed_hosts"
            )
        if origin is not None and _split(origin) != _split(f"//{host}"):
            return f"requests of other sites are refused, this one is of '{origin}'"
        return ""


def _split(url: str) -> tuple[str, int | None]:
    """Host name in lower case and port; an empty name where there is none."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
