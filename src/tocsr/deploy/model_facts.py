"""What `upscaler.json` says of the graph beside it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from tocsr.deploy.graphs import broken_model
from tocsr.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What `upscaler.json` says of the graph beside it.

    Args:
        upscale: n, the factor between the sides of the result and of the image.
        latent_channels: Channels of the noise.
        latent_stride: Pixels of the result per noise value along a side.
        pixel_multiple: What the sides of the graph's image must be multiples of.
        halo: Pixels of the result to compute around a tile.
        prediction: What the network's output is, `clean` or `noise`; empty where it is not said.
    """

    upscale: int
    latent_channels: int
    latent_stride: int
    pixel_multiple: int
    halo: int
    prediction: str = ""

    @classmethod
    def read(cls, path: Path) -> ModelFacts:
        """Reads `upscaler.json`; what other programs say in it is left alone.

        Raises:
            TocsrError: Missing, of another schema, or with values that do not fit together.
        """
        if not path.is_file():
            raise broken_model(f"a model folder must hold {path.name}, {path} does not exist")
        values = read_json(path)
        schema = values.get("schema") if isinstance(values, dict) else None
        if schema != SCHEMA:
            raise broken_model(f"{path} must have schema {SCHEMA}, got {schema}", "update tocsr")
        facts: dict[str, Any] = {field.name: values.get(field.name) for field in fields(cls)}
        prediction = facts.pop("prediction") or ""
        for name, value in facts.items():
            if type(value) is not int or value < (name != "halo"):
                raise broken_model(f"{path} must give {name} as a positive integer, got {value}")
        for name in ("upscale", "latent_stride"):
            if facts["pixel_multiple"] % facts[name]:
                raise broken_model(
                    f"{path}: pixel_multiple must be a multiple of {name}, got {facts}"
                )
        return cls(prediction=str(prediction), **facts)
