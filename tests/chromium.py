"""Headless Chromium through its DevTools protocol, by two pipes: no driver, no package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)


class Page:
    """One tab. `requested` has the address of everything that it asked for."""

    def __init__(self, write: int, read: int) -> None:
        self.to, self.of = os.fdopen(write, "wb"), os.fdopen(read, "rb")
        self.number, self.buffer, self.session = 0, b"", ""
        self.requested: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        self.to.flush()
        while True:
            said = self._next()
            if said.get("method") == "Network.requestWillBeSent":
                self.requested.append(said["params"]["request"]["url"])
            if said.get("id") == self.number:
                assert "error" not in said, (method, said["error"])
                return said["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = self.of.read1(2**16)
            assert part, "Chromium ended"
            self.buffer += part
        said, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(said)

    def value(self, script: str) -> Any:
        """What a script gives."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 60) -> None:
        """Waits for a script to give something true."""
        end = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < end, f"never came true: {script}"
            time.sleep(0.05)

    def middle(self, selector: str) -> tuple[float, float]:
        """Where an element is in the window, once it is scrolled there."""
        x, y, width, height = self.value(
            f"(() => {{ const found = document.querySelector('{selector}');"
            " found.scrollIntoViewIfNeeded(); const b = found.getBoundingClientRect();"
            " return [b.x, b.y, b.width, b.height]; })()"
        )
        return x + width / 2, y + height / 2

    def drop(self, selector: str, file: Path) -> None:
        """Drags a file from outside and drops it on an element."""
        x, y = self.middle(selector)
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def drag(self, start: tuple[float, float], stop: tuple[float, float]) -> None:
        """Moves the mouse with its button down."""
        self._mouse("mousePressed", *start)
        self._mouse("mouseMoved", *stop)
        self._mouse("mouseReleased", *stop)

    def click(self, selector: str) -> None:
        """Clicks on an element."""
        x, y = self.middle(selector)
        self.drag((x, y), (x, y))

    def _mouse(self, kind: str, x: float, y: float) -> None:
        button = {"button": "left", "buttons": int(kind != "mouseReleased"), "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def press(self, key: str) -> None:
        """Presses a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def screenshot(self) -> bytes:
        """A PNG of the window."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A browser with a fresh profile, for as long as the block takes."""
    (of_page, to_page), (of_browser, to_browser) = os.pipe(), os.pipe()
    command = [str(CHROMIUM), *_FLAGS, f"--user-data-dir={profile}", "--window-size=1200,900"]

    def connect() -> None:
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (of_page, to_browser)]
        for number, end in enumerate(ends, 3):  # the numbers that Chromium asks for
            os.dup2(end, number)

    browser = subprocess.Popen(
        command,
        preexec_fn=connect,  # noqa: PLW1509, no thread runs here
        close_fds=False,
        stderr=subprocess.DEVNULL,
    )
    os.close(of_page)
    os.close(to_browser)
    try:
        page = Page(to_page, of_browser)
        yield page
        page.session = ""
        page.call("Browser.close")
        browser.wait(30)
    finally:
        browser.kill()
        browser.wait()
