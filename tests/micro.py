"""The micro preset: the recipe in seconds, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MICRO = Path(__file__).parent / "presets" / "micro"


def micro_config(verb: str, runs: Path, *options: str) -> Any:
    """A phase's configuration at micro size."""
    from tocsr.options import read_config

    return read_config(verb, [f"--preset={MICRO}", f"--runs={runs}", *options])[0]
