"""A model's graph in ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from tocsr.deploy.graphs import GRAPH, check_names, checked_file, opening, running

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxGraph:
    """A `tocsr.deploy.graphs.Graph` in ONNX Runtime, float32 on the CPU.

    Args:
        path: The ONNX file, its weight files where it says.
        num_threads: CPU threads; 0 takes all cores.

    Raises:
        TocsrError: A file is missing or broken, or the graph is another one (code MODEL).
    """

    engine = f"onnxruntime {onnxruntime.__version__} cpu float32"

    def __init__(self, path: Path, num_threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised, and said once
        options.enable_mem_pattern = False  # it is for inputs of one size
        options.use_deterministic_compute = True
        with opening(checked_file(path), _ERRORS):
            self._session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        # Memory is kept from layer to layer: to ask the system anew takes a quarter of the time. It
        # is given back after a tile.
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        inputs = [value.name for value in self._session.get_inputs()]
        check_names(path, inputs, [value.name for value in self._session.get_outputs()])

    def __call__(self, image: NDArray[Any], noise: NDArray[Any], /) -> NDArray[Any]:
        """As `Graph` says."""
        with running(_ERRORS):
            (result,) = self._session.run(
                ["upscaled"], {"image": image, "noise": noise}, self._options
            )
        return result


def open_graph(folder: Path, device: str, num_threads: int) -> OnnxGraph:
    """The graph of a model folder."""
    del device  # the CPU's, as `tocsr.deploy.graphs.open_graph` has checked
    return OnnxGraph(folder / GRAPH, num_threads)
