"""A few surrogates of the micro preset, and what their training leaves in a `--runs` folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("E1/r1-full-full", "E1/r0-full-pointwise", "D1/r1-separable-pointwise")


class Killed(BaseException):
    """What stands for a kill -9."""


def weights(runs: Path, name: str) -> dict[str, torch.Tensor]:
    """Those of a finished surrogate."""
    return load_file(runs / "calibrate" / "surrogates" / f"{name}.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two surrogates are the same, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def log(runs: Path, name: str) -> list[dict[str, Any]]:
    """The logged steps of a surrogate."""
    path = runs / "calibrate" / "trainings" / name / "metrics.jsonl"
    return [json.loads(line) for line in path.open()]
