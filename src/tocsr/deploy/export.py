"""export: a finished model as a folder that upscales without PyTorch.

The ONNX graph holds no weights: they stay in the half-precision safetensors files beside it, which
it names as its external data, so the folder serves PyTorch and ONNX Runtime alike and holds every
weight once.
"""

from __future__ import annotations

import json
import struct
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from tocsr.deploy.diffusers_pipeline import write_pipeline
from tocsr.deploy.graphs import GRAPH, INT8_FORM, OWN_FORM, engine_module
from tocsr.deploy.manifest import MANIFEST, manifest
from tocsr.deploy.onnx_session import OnnxGraph
from tocsr.errors import ExitCode, TocsrError
from tocsr.files import whole_file, write_json
from tocsr.models.folders import WEIGHTS
from tocsr.models.sr import OneStepGenerator
from tocsr.runs import Report, silent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tocsr.deploy.configs import ExportConfig
    from tocsr.deploy.graphs import Graph

OPSET = 20
MAX_DIFFERENCE = 2e-3  # of the image range [-1, 1]: a quarter of one 8-bit level


def export_graph(generator: OneStepGenerator) -> onnx.ModelProto:
    """The generator as an ONNX graph with dynamic height and width, weights inside.

    Inputs `image` and `noise`, output `upscaled`, as in `OneStepGenerator`, batch 1.
    """
    facts = generator.facts
    multiple, stride = facts.pixel_multiple, facts.latent_stride
    image = torch.zeros(1, 3, 2 * multiple, 3 * multiple)
    noise = torch.zeros(1, facts.latent_channels, 2 * multiple // stride, 3 * multiple // stride)
    height = torch.export.Dim("height", min=1, max=256)
    width = torch.export.Dim("width", min=1, max=256)
    latent_multiple = multiple // stride
    program = torch.onnx.export(
        generator,
        (image, noise),
        dynamo=True,
        opset_version=OPSET,
        input_names=["image", "noise"],
        output_names=["upscaled"],
        dynamic_shapes=(
            {2: multiple * height, 3: multiple * width},
            {2: latent_multiple * height, 3: latent_multiple * width},
        ),
        verbose=False,
    )
    assert program is not None
    graph = program.model_proto
    del graph.graph.metadata_props[:]  # the exporter's notes, in another order each time
    return graph


def tensor_places(file: Path) -> dict[str, tuple[int, int]]:
    """Name -> (offset, length) in bytes of every tensor in a safetensors file."""
    with file.open("rb") as stream:
        (header_length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(header_length))
    start = 8 + header_length
    return {
        name: (
            start + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def move_weights_out_(graph: onnx.ModelProto, folder: Path) -> int:
    """Replaces the graph's weights by references into the folder's float16 safetensors files.

    Returns:
        Bytes of constants that stay inside the graph, because no file holds them.
    """
    places = {}
    for part in ("vae", "unet"):
        for name, place in tensor_places(folder / part / WEIGHTS).items():
            places[f"{part}.{name}"] = (f"{part}/{WEIGHTS}", *place)
    kept, casts, inside = [], [], 0
    for tensor in graph.graph.initializer:
        if tensor.name not in places:
            kept.append(tensor)
            inside += tensor.ByteSize()
            continue
        location, offset, length = places[tensor.name]
        half = onnx.TensorProto(
            name=f"{tensor.name}.half", data_type=onnx.TensorProto.FLOAT16, dims=tensor.dims
        )
        half.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            half.external_data.add(key=key, value=str(value))
        kept.append(half)
        casts.append(
            onnx.helper.make_node("Cast", [half.name], [tensor.name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.graph.node]
    for node in nodes:  # the exporter's notes on where a node came from are most of the file
        del node.metadata_props[:]
    del graph.graph.initializer[:], graph.graph.node[:], graph.graph.value_info[:]
    graph.graph.initializer.extend(kept)
    graph.graph.node.extend(nodes)
    return inside


def largest_difference(generator: OneStepGenerator, graph: Graph) -> float:
    """Largest |PyTorch - graph| of outputs in [-1, 1], at two sizes that the export did not see."""
    facts, rng = generator.facts, np.random.default_rng(0)
    found = 0.0
    for rows, cols in ((3, 3), (1, 4)):
        height, width = rows * facts.pixel_multiple, cols * facts.pixel_multiple
        latent = (height // facts.latent_stride, width // facts.latent_stride)
        image = rng.uniform(-1, 1, (1, 3, height, width)).astype(np.float32)
        noise = rng.standard_normal((1, facts.latent_channels, *latent)).astype(np.float32)
        with torch.no_grad():
            theirs = generator(torch.from_numpy(image), torch.from_numpy(noise)).numpy()
        found = max(found, float(np.abs(graph(image, noise) - theirs).max()))
    return found


def checked(generator: OneStepGenerator, graph: Graph, name: str) -> float:
    """The largest difference of a graph that may be kept.

    Raises:
        TocsrError: It differs from PyTorch by more than `MAX_DIFFERENCE` (code MODEL).
    """
    difference = largest_difference(generator, graph)
    if not difference <= MAX_DIFFERENCE:  # not a number is no agreement either
        raise TocsrError(
            f"the {name} graph must agree with PyTorch to {MAX_DIFFERENCE} and differs by "
            f"{difference:.2g}; it was not kept",
            code=ExitCode.MODEL,
        )
    return difference


def write_openvino(generator: OneStepGenerator, folder: Path) -> float:
    """Writes the folder's ONNX graph in OpenVINO's own form too, compared with PyTorch first.

    Returns:
        The largest difference.
    """
    engine = engine_module("openvino")
    with engine.checked_form(engine.read_model(folder / GRAPH), folder / OWN_FORM) as graph:
        return checked(generator, graph, "OpenVINO")


def remove_graphs(folder: Path) -> None:
    """Removes what an earlier export left that belongs to the weights which go now."""
    weights = (str(Path(name).with_suffix(".bin")) for name in (OWN_FORM, INT8_FORM))
    for name in (MANIFEST, GRAPH, OWN_FORM, INT8_FORM, *weights):
        (folder / name).unlink(missing_ok=True)


def run(config: ExportConfig, report: Report = silent) -> dict[str, Any]:
    """Writes weights in float16, `upscaler.json` and the graphs, compared with PyTorch first."""
    write_int8 = _int8_writer() if config.int8 else None  # what lacks is said before the work
    if config.openvino:
        engine_module("openvino")
    num_steps = 3 + config.openvino + (config.int8 is not None)
    generator = OneStepGenerator.from_pretrained(config.model)
    report("export", 0, num_steps, {})
    remove_graphs(config.output)
    generator.half().save_pretrained(config.output)
    write_pipeline(generator, config.output)
    generator = OneStepGenerator.from_pretrained(config.output).float().eval()
    graph = export_graph(generator)
    report("export", 1, num_steps, {})
    inside = move_weights_out_(graph, config.output)
    differences = {}
    with whole_file(config.output / GRAPH) as part:
        onnx.save(graph, part)
        report("export", 2, num_steps, {})
        differences["onnx"] = checked(generator, OnnxGraph(part), "ONNX")
    report("export", 3, num_steps, {})
    if config.openvino:
        differences["openvino"] = write_openvino(generator, config.output)
        report("export", 4, num_steps, {})
    int8, failed = {}, {}
    if write_int8 and config.int8:
        try:
            int8["int8_psnr_to_float"] = write_int8(config.output, config.int8)
        except TocsrError as error:  # the other files are good
            failed[str(config.output / INT8_FORM)] = str(error)
        report("export", num_steps, num_steps, {})
    made = manifest(config.output, generator, OPSET, differences) | int8
    write_json(config.output / MANIFEST, made)
    return {
        "folder": str(config.output),
        "largest_difference": differences,
        "bytes": sum(file["bytes"] for file in made["files"].values()),
        "bytes_of_constants_in_graph": inside,
        **int8,
        "failed": failed,
    }


def _int8_writer() -> Callable[[Path, Path], float]:
    """`tocsr.deploy.int8.write_int8`.

    Raises:
        TocsrError: NNCF or OpenVINO is not installed.
    """
    try:
        return import_module("tocsr.deploy.int8").write_int8
    except ModuleNotFoundError as error:
        raise TocsrError(
            f"int8 needs the package {error.name}, which is not installed",
            "run: pip install 'tocsr[int8]'",
        ) from error
