"""Metrics of pyiqa, computed by another Python that has it installed.

pyiqa's licence is for non-commercial use and it needs torchvision, so it is no dependency: whoever
may use it installs it in an environment of its own and names that environment's Python.
"""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from tocsr.errors import ExitCode, TocsrError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from tocsr.deploy.metrics.subject import Subject

# What the other Python runs: a line with metric and shape, then the pixels; a line with the value
# comes back. What pyiqa prints goes to the standard error, so that nothing mixes with the values.
_OTHER_SIDE = """
import json, math, os, sys
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)
import pyiqa, torch
from importlib.metadata import version
metrics = {}
print(json.dumps({"version": version("pyiqa")}), file=answers)
while line := sys.stdin.buffer.readline():
    asked = json.loads(line)
    pixels = bytearray(sys.stdin.buffer.read(math.prod(asked["shape"])))
    image = torch.frombuffer(pixels, dtype=torch.uint8).reshape(asked["shape"])
    name = asked["metric"]
    if name not in metrics:
        metrics[name] = pyiqa.create_metric(name, device="cpu")
    with torch.no_grad():
        value = metrics[name](image.permute(2, 0, 1)[None].float() / 255)
    print(json.dumps({"value": float(value)}), file=answers)
"""


class Pyiqa:
    """The other Python, for as long as the block lasts.

    Args:
        python: An executable in whose environment `import pyiqa` works.

    Raises:
        TocsrError: It cannot be started, or ends before its answer (MODEL).
    """

    def __init__(self, python: Path) -> None:
        self.python = python
        try:
            self._process = subprocess.Popen(
                [str(python), "-c", _OTHER_SIDE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        except OSError as error:
            raise TocsrError(
                f"pyiqa must name a Python, {python} cannot be started: {error.strerror}",
                code=ExitCode.MODEL,
            ) from error
        self.version = str(self._answer()["version"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()  # closes its input, which ends it

    def metric(self, name: str) -> Callable[[Subject, Subject], float]:
        """What measures an image alone by the metric of this name in pyiqa."""

        def measure(image: Subject, reference: Subject) -> float:
            del reference
            asked = json.dumps({"metric": name, "shape": image.rgb.shape})
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # it has ended: no answer will come
                self._process.stdin.write(asked.encode() + b"\n" + image.rgb.tobytes())
                self._process.stdin.flush()
            return float(self._answer()["value"])

        return measure

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise TocsrError(
                f"{self.python} ended instead of computing; it says why above",
                "see that it can import pyiqa and has the weights of the metric",
                ExitCode.MODEL,
            )
        return dict(json.loads(line))
