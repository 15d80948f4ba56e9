"""A model's graph in ONNX Runtime, and what goes wrong with it in one line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from tocsr.errors import ExitCode, TocsrError, one_line

if TYPE_CHECKING:
    from pathlib import Path

_GET_A_MODEL = "name a folder that tocsr export wrote with --model, or reinstall tocsr"
ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
# A protobuf entry {key: "location", value: <relative path>} of a tensor with external data.
_EXTERNAL_FILE = re.compile(rb"\n\x08location\x12(.)", re.DOTALL)
_OUT_OF_MEMORY = re.compile(r"bad_alloc|failed to allocate|out of memory|bfc_arena", re.IGNORECASE)


def broken_model(message: str, hint: str = _GET_A_MODEL) -> TocsrError:
    """The error of a model folder that cannot be used (code MODEL)."""
    return TocsrError(message, hint, ExitCode.MODEL)


def open_session(path: Path, num_threads: int) -> onnxruntime.InferenceSession:
    """Opens a graph that maps `image` and `noise` to `upscaled`.

    Args:
        path: The ONNX file, its weight files where it says.
        num_threads: CPU threads; 0 takes all cores.

    Raises:
        TocsrError: A file is missing or broken, or the graph is another one (code MODEL).
    """
    if not path.is_file():
        raise broken_model(f"a model folder must hold {path.name}, {path} does not exist")
    for name in _external_files(path.read_bytes()):
        if not (path.parent / name).is_file():
            raise broken_model(
                f"{path.name} needs the weight file {path.parent / name}, it is missing"
            )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised, and said once
    options.enable_cpu_mem_arena = False  # gives memory back between tiles of different sizes
    options.enable_mem_pattern = False
    options.use_deterministic_compute = True
    try:
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    except ORT_ERRORS as error:
        raise broken_model(f"{path} or its weight files are broken: {one_line(error)}") from error
    inputs = sorted(value.name for value in session.get_inputs())
    outputs = [value.name for value in session.get_outputs()]
    if inputs != ["image", "noise"] or "upscaled" not in outputs:
        raise broken_model(
            f"{path} must map image and noise to upscaled, got {inputs} to {outputs}"
        )
    return session


def says_out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime failed for want of memory."""
    return _OUT_OF_MEMORY.search(str(error)) is not None


def _external_files(graph: bytes) -> list[str]:
    """The weight files that an ONNX graph refers to; found without the onnx package."""
    found = (
        graph[match.end() : match.end() + match[1][0]] for match in _EXTERNAL_FILE.finditer(graph)
    )
    return sorted({name.decode("utf-8", "replace") for name in found})
