"""What runs a finished model: one call, whichever engine is behind it, and how it is chosen."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

from tocsr.config import require
from tocsr.errors import ExitCode, TocsrError, is_out_of_memory, one_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

GRAPH = "upscaler.onnx"
OWN_FORM = "upscaler.xml"  # OpenVINO's; the weights lie in a .bin of the same name
INT8_FORM = "upscaler_int8.xml"
_GET_A_MODEL = "name a folder that tocsr export wrote with --model, or reinstall tocsr"
_OUT_OF_MEMORY = re.compile(r"bad_alloc|failed to allocate|out of memory|bfc_arena", re.IGNORECASE)
# A protobuf entry {key: "location", value: <relative path>} of a tensor with external data.
_EXTERNAL_FILE = re.compile(rb"\n\x08location\x12(.)", re.DOTALL)


class Graph(Protocol):
    """A finished model in one engine.

    Attributes:
        engine: What computes, with its version and the precision, as a result's metadata say it.
    """

    engine: str

    def __call__(self, image: NDArray[Any], noise: NDArray[Any], /) -> NDArray[Any]:
        """One step of the network; calls from several threads are safe.

        Args:
            image: float32 (1, 3, H, W) in [-1, 1] but for overshoot, the upsampled photo.
            noise: float32 (1, Z, h, w), standard normal.

        Returns:
            float32 (1, 3, H, W) in [-1, 1].

        Raises:
            MemoryError: The memory, or the device's, ran out.
            TocsrError: The engine failed (code MODEL).
        """


@dataclass(frozen=True)
class Engine:
    """Where an engine lives.

    Args:
        module: Of `tocsr.deploy`.
        package: What must be installed.
        extra: The extra of this package that installs it; empty for the core.
        opener: Of the module; called with folder, device and num_threads it makes a `Graph`.
    """

    module: str
    package: str
    extra: str = ""
    opener: str = "open_graph"


ENGINES = {
    "onnx": Engine("onnx_session", "onnxruntime"),
    "openvino": Engine("openvino_session", "openvino", "openvino"),
    "openvino-int8": Engine("openvino_session", "openvino", "openvino", "open_int8"),
    "torch": Engine("torch_session", "torch", "torch"),
}


def open_graph(folder: Path, backend: str, device: str, num_threads: int) -> Graph:
    """Opens a model folder in the engine that was asked for.

    Args:
        folder: A model folder.
        backend: Of `ENGINES`; or `auto`, which takes the fastest that is exact.
        device: `cpu`; or `cuda`, `mps` or `auto`, what PyTorch finds, which need `torch`.
        num_threads: CPU threads; 0 takes all cores.

    Raises:
        TocsrError: The engine or the device is not there, or they do not go together (USAGE); a
            file of the model is missing or broken (MODEL).
    """
    if backend == "auto":
        # benchmarks/backends.py, 2 models, one thread of a server processor with AVX2: OpenVINO
        # takes 1.1 to 1.2 times as long as ONNX Runtime, PyTorch 1.1 times and seconds to start.
        backend = "onnx" if device == "cpu" else "torch"
    require(
        device == "cpu" or backend == "torch",
        f"device {device} needs backend torch, got {backend}",
        "leave --backend out",
    )
    opener = getattr(engine_module(backend), ENGINES[backend].opener)
    return opener(folder, device, num_threads)


def is_installed(name: str) -> bool:
    """Whether an engine's package is there."""
    return find_spec(ENGINES[name].package) is not None


def engine_module(name: str) -> Any:
    """The module of an engine, imported only now.

    Raises:
        TocsrError: The engine is not installed.
    """
    engine = ENGINES[name]
    if not is_installed(name):
        raise TocsrError(
            f"backend {name} needs the package {engine.package}, which is not installed",
            f"run: pip install 'tocsr{f'[{engine.extra}]' if engine.extra else ''}'",
        )
    # ONNX Runtime would tell its maker of each start, and its own switch comes after its import
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_module(f"tocsr.deploy.{engine.module}")


def broken_model(message: str, hint: str = _GET_A_MODEL) -> TocsrError:
    """The error of a model folder that cannot be used (code MODEL)."""
    return TocsrError(message, hint, ExitCode.MODEL)


@contextmanager
def opening(path: Path, kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """Says in one line what an engine raises where it cannot open a file."""
    try:
        yield
    except kinds as error:
        raise broken_model(f"{path} or its weight files are broken: {one_line(error)}") from error


@contextmanager
def running(kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """Makes of what an engine raises a MemoryError, or the error of a broken model."""
    try:
        yield
    except kinds as error:
        text = one_line(error)
        if is_out_of_memory(error) or _OUT_OF_MEMORY.search(text):
            raise MemoryError(text) from error
        raise broken_model(f"the model's graph failed: {text}") from error


def checked_file(path: Path) -> Path:
    """The path of an ONNX graph that is there with the weight files it names.

    Raises:
        TocsrError: One is missing (code MODEL).
    """
    if not path.is_file():
        raise broken_model(f"a model folder must hold {path.name}, {path} does not exist")
    for name in external_files(path.read_bytes()):
        if not (path.parent / name).is_file():
            raise broken_model(
                f"{path.name} needs the weight file {path.parent / name}, it is missing"
            )
    return path


def external_files(graph: bytes) -> list[str]:
    """The weight files that an ONNX graph refers to; found without the onnx package."""
    found = (
        graph[match.end() : match.end() + match[1][0]] for match in _EXTERNAL_FILE.finditer(graph)
    )
    return sorted({name.decode("utf-8", "replace") for name in found})


def check_names(path: Path, inputs: list[str], outputs: list[str]) -> None:
    """Raises an error (code MODEL) unless a graph maps `image` and `noise` to `upscaled`."""
    if sorted(inputs) != ["image", "noise"] or "upscaled" not in outputs:
        raise broken_model(
            f"{path} must map image and noise to upscaled, got {sorted(inputs)} to {outputs}"
        )
