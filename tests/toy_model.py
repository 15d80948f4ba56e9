"""A model folder of a few kilobytes whose network is local, strided and takes noise."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UPSCALE, STRIDE, MULTIPLE, HALO, LATENT = 4, 8, 16, 64, 2
FACTS = {
    "schema": 1,
    "upscale": UPSCALE,
    "latent_channels": LATENT,
    "latent_stride": STRIDE,
    "pixel_multiple": MULTIPLE,
    "halo": HALO,
}


def save_graph(folder: Path, nodes: list, weights: dict[str, np.ndarray]) -> None:
    """Writes `upscaler.json` and `upscaler.onnx` with its weights in `unet/weights.safetensors`."""

    def value(name: str, channels: int) -> onnx.ValueInfoProto:
        shape = [1, channels, f"{name}_h", f"{name}_w"]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    (folder / "unet").mkdir(parents=True)
    initializers = []
    with (folder / "unet" / "weights.safetensors").open("wb") as file:
        for name, array in weights.items():
            tensor = numpy_helper.from_array(array, name)
            raw = tensor.raw_data
            set_external_data(
                tensor, "unet/weights.safetensors", offset=file.tell(), length=len(raw)
            )
            tensor.ClearField("raw_data")
            file.write(raw)
            initializers.append(tensor)
    inputs = [value("image", 3), value("noise", LATENT)]
    graph = helper.make_graph(nodes, "toy", inputs, [value("upscaled", 3)], initializers)
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    (folder / "upscaler.onnx").write_bytes(model.SerializeToString())
    (folder / "upscaler.json").write_text(json.dumps(FACTS))


def toy_nodes() -> tuple[list, dict[str, np.ndarray]]:
    """tanh(smooth(image) + depth_to_space(mix(encode(image) + noise))).

    It sees at most 15 pixels of the result beyond the one it computes, less than half the halo.
    """
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> np.ndarray:
        return (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    weights = {
        "smooth.weight": weight(3, 3, 3, 3),
        "encode.weight": weight(LATENT, 3, STRIDE, STRIDE),
        "mix.weight": weight(3 * STRIDE**2, LATENT, 3, 3),
    }
    nodes = [
        helper.make_node("Conv", ["image", "smooth.weight"], ["smooth"], pads=[1] * 4),
        helper.make_node("Conv", ["image", "encode.weight"], ["latent"], strides=[STRIDE] * 2),
        helper.make_node("Add", ["latent", "noise"], ["noisy"]),
        helper.make_node("Conv", ["noisy", "mix.weight"], ["mixed"], pads=[1] * 4),
        helper.make_node("DepthToSpace", ["mixed"], ["fine"], blocksize=STRIDE),
        helper.make_node("Add", ["smooth", "fine"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["upscaled"]),
    ]
    return nodes, weights


@pytest.fixture
def toy_model(tmp_path: Path) -> Path:
    """The folder of a working toy model, x4."""
    save_graph(tmp_path / "model", *toy_nodes())
    return tmp_path / "model"


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder of a model of given nodes and weights."""

    def make(nodes: list, weights: dict[str, np.ndarray]) -> Path:
        save_graph(tmp_path / "other", nodes, weights)
        return tmp_path / "other"

    return make


@pytest.fixture
def photo() -> np.ndarray:
    """Smooth colours with some grain, uint8 (53, 70, 3)."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:53, :70]
    waves = np.stack([np.sin(x / 9 + y / 17), np.cos(y / 11), np.sin(x * y / 500)], axis=-1)
    return np.clip(127 + 90 * waves + rng.normal(0, 8, waves.shape), 0, 255).astype(np.uint8)
