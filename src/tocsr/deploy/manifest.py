"""What an exported folder says of itself: files, inputs and outputs, cost, how it was checked."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from tocsr import __version__
from tocsr.deploy.graphs import ENGINES
from tocsr.models.cost import pipeline_costs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tocsr.models.sr import GeneratorFacts, OneStepGenerator

MANIFEST = "manifest.json"
SCHEMA = 1
PIXELS = 512  # side of the result that the cost is for


def manifest(
    folder: Path, generator: OneStepGenerator, opset: int, differences: Mapping[str, float]
) -> dict[str, Any]:
    """The manifest of an exported folder.

    Args:
        folder: It; a manifest that is there already is left out.
        generator: The model in it.
        opset: Of the ONNX graph.
        differences: Engine -> largest difference to PyTorch, of images in [-1, 1].
    """
    costs = pipeline_costs(generator.vae, generator.unet, PIXELS)
    packages = ["torch", "onnx", *(ENGINES[name].package for name in differences)]
    return {
        "schema": SCHEMA,
        "files": file_facts(folder),
        **tensor_facts(generator.facts),
        "opset": opset,
        "largest_difference_to_torch": dict(differences),
        "cost": {
            "pixels": PIXELS,
            "params": {cost.part: cost.params for cost in costs},
            "macs": {cost.part: cost.macs for cost in costs},
        },
        "versions": {"tocsr": __version__, **versions(packages)},
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed by that name; ONNX Runtime has others for GPUs."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def file_facts(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below a folder but its manifest and hidden ones."""
    files = (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    )
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    }


def tensor_facts(facts: GeneratorFacts) -> dict[str, Any]:
    """What goes into the graph and what comes out: `inputs` and `outputs`."""
    image = {
        "dtype": "float32",
        "shape": [1, 3, "H", "W"],
        "multiple": facts.pixel_multiple,
        "range": [-1, 1],
    }
    stride = facts.latent_stride
    noise = {
        "dtype": "float32",
        "shape": [1, facts.latent_channels, f"H / {stride}", f"W / {stride}"],
        "multiple": facts.pixel_multiple // stride,
        "distribution": "standard normal",
    }
    return {"inputs": {"image": image, "noise": noise}, "outputs": {"upscaled": image}}
