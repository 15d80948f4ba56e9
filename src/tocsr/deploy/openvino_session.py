"""A model's graph in OpenVINO."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import openvino

from tocsr.deploy.graphs import (
    GRAPH,
    INT8_FORM,
    OWN_FORM,
    check_names,
    checked_file,
    opening,
    running,
)
from tocsr.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_ERRORS = (RuntimeError,)  # all that OpenVINO raises derives from it


class OpenVinoGraph:
    """A `tocsr.deploy.graphs.Graph` in OpenVINO, on the CPU.

    Args:
        path: An ONNX file, its weight files where it says, or a file of OpenVINO's own form.
        num_threads: CPU threads; 0 takes all cores.
        float32: Otherwise OpenVINO chooses: bfloat16 where the processor computes in it.

    Raises:
        TocsrError: A file is missing or broken, or the graph is another one (code MODEL).
    """

    def __init__(self, path: Path, num_threads: int = 0, float32: bool = False) -> None:
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": num_threads}
        if float32:
            settings["INFERENCE_PRECISION_HINT"] = "f32"
        with opening(checked_file(path), _ERRORS):
            core = openvino.Core()
            model = core.read_model(path)
            inputs = [value.any_name for value in model.inputs]
            check_names(path, inputs, [value.any_name for value in model.outputs])
            self._compiled = core.compile_model(model, "CPU", settings)
        precision = self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if path.name == INT8_FORM:
            precision = f"int8 and {precision}"
        self.engine = f"openvino {openvino.__version__.split('-')[0]} cpu {precision}"

    def __call__(self, image: NDArray[Any], noise: NDArray[Any], /) -> NDArray[Any]:
        """As `Graph` says."""
        with running(_ERRORS):
            request = self._compiled.create_infer_request()  # one a call: threads may not share it
            result = request.infer({"image": image, "noise": noise}, share_inputs=True)
        return result["upscaled"]


def read_model(path: Path) -> openvino.Model:
    """What an ONNX file holds, as OpenVINO sees it."""
    return openvino.Core().read_model(path)


@contextmanager
def checked_form(model: openvino.Model, target: Path) -> Iterator[OpenVinoGraph]:
    """Yields a model as its file will give it, in float32; keeps the file if the block succeeds.

    Args:
        model: It; its weights are kept in half precision or less.
        target: Ends in .xml; the weights go to the file of the same name that ends in .bin.
    """
    with TemporaryDirectory(dir=target.parent, prefix=".") as scratch:
        made = Path(scratch) / target.name  # OpenVINO goes by the suffix
        openvino.save_model(model, made, compress_to_fp16=True)
        yield OpenVinoGraph(made, float32=True)
        for suffix in (".bin", ".xml"):
            with whole_file(target.with_suffix(suffix)) as part:
                made.with_suffix(suffix).replace(part)


def open_graph(folder: Path, device: str, num_threads: int) -> OpenVinoGraph:
    """The graph of a model folder, in OpenVINO's own form where it holds that."""
    del device  # the CPU's, as `tocsr.deploy.graphs.open_graph` has checked
    own = folder / OWN_FORM
    return OpenVinoGraph(own if own.is_file() else folder / GRAPH, num_threads)


def open_int8(folder: Path, device: str, num_threads: int) -> OpenVinoGraph:
    """The graph in 8 bits of a model folder that holds one."""
    del device
    return OpenVinoGraph(folder / INT8_FORM, num_threads)
