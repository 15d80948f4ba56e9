"""export: a finished model as a folder that upscales without PyTorch.

The ONNX graph holds no weights: they stay in the half-precision safetensors files beside it, which
it names as its external data, so the folder serves PyTorch and ONNX Runtime alike and holds every
weight once.
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch

from tocsr.errors import ExitCode, TocsrError
from tocsr.files import whole_file
from tocsr.models.folders import WEIGHTS
from tocsr.models.sr import OneStepGenerator
from tocsr.runs import Report, silent

if TYPE_CHECKING:
    from pathlib import Path

    from tocsr.deploy.configs import ExportConfig

GRAPH = "upscaler.onnx"
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
    return program.model_proto


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


def largest_difference(generator: OneStepGenerator, graph: Path) -> float:
    """Largest |PyTorch - ONNX Runtime| of outputs in [-1, 1], at a size the export did not see."""
    facts = generator.facts
    side, rng = 3 * facts.pixel_multiple, np.random.default_rng(0)
    latent = side // facts.latent_stride
    image = rng.uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
    noise = rng.standard_normal((1, facts.latent_channels, latent, latent)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    (ours,) = session.run(None, {"image": image, "noise": noise})
    with torch.no_grad():
        theirs = generator(torch.from_numpy(image), torch.from_numpy(noise)).numpy()
    return float(np.abs(ours - theirs).max())


def run(config: ExportConfig, report: Report = silent) -> dict[str, Any]:
    """Writes weights in float16, `upscaler.json` and the graph, compared with PyTorch first."""
    generator = OneStepGenerator.from_pretrained(config.model)
    report("export", 0, 3, {})
    generator.half().save_pretrained(config.output)
    generator = OneStepGenerator.from_pretrained(config.output).float().eval()
    graph = export_graph(generator)
    report("export", 1, 3, {})
    inside = move_weights_out_(graph, config.output)
    with whole_file(config.output / GRAPH) as part:
        onnx.save(graph, part)
        report("export", 2, 3, {})
        difference = largest_difference(generator, part)
        if difference > MAX_DIFFERENCE:
            raise TocsrError(
                f"the ONNX graph must agree with PyTorch to {MAX_DIFFERENCE} and differs by "
                f"{difference:.2g}; it was not kept",
                code=ExitCode.MODEL,
            )
    report("export", 3, 3, {})
    files = [path for path in config.output.rglob("*") if path.is_file()]
    return {
        "folder": str(config.output),
        "largest_difference": difference,
        "bytes": sum(path.stat().st_size for path in files),
        "bytes_of_constants_in_graph": inside,
    }
