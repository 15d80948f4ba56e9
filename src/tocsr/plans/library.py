"""The library that a phase trains or searches: its blocks, and architectures made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tocsr.models.architectures import architecture_rows
from tocsr.models.library import library_costs, surrogate_library
from tocsr.models.variants import TEACHER
from tocsr.options import hand_on, read_config
from tocsr.plans.networks import PIXELS

if TYPE_CHECKING:
    from tocsr.models.compact import CompactUNet
    from tocsr.models.library import LibraryCosts


def phase_library(config: Any, teacher: CompactUNet) -> LibraryCosts:
    """The library by calibrate's settings, which search takes as calibrate made it."""
    own = config.verb == "calibrate"
    calibrate = config if own else read_config("calibrate", hand_on(config))[0]
    return library_costs(teacher, surrogate_library(teacher, calibrate.local_only), PIXELS)


def library_rows(config: Any, costs: LibraryCosts) -> dict[str, Any]:
    """Of each stage its variants, with parameters in millions and GMACs; and what is made of them.

    A search is told of architectures near the budget that the preset's select names.
    """
    blocks = {
        stage: ", ".join(
            f"{name} {cost.params / 1e6:.3g}M {cost.macs_g:.3g}G" for name, cost in rows.items()
        )
        for stage, rows in costs.stages.items()
    }
    if config.verb == "calibrate":
        number = f"{costs.num_candidates:,}"
        return {"library": blocks, "candidates": number, "surrogates": _surrogates(config, costs)}
    budget = read_config("select", hand_on(config))[0].budget
    return {
        "library": blocks,
        f"architectures at {PIXELS} x {PIXELS}": architecture_rows(costs, budget),
        "evaluations": config.num_evaluations(
            1 + sum(len(rows) - 1 for rows in costs.stages.values())
        ),
    }


def _surrogates(config: Any, costs: LibraryCosts) -> dict[str, str]:
    """How many surrogates are trained, and what those take that train together."""
    sizes = [
        cost.params
        for rows in costs.stages.values()
        for name, cost in rows.items()
        if name != TEACHER
    ]
    together = min(sum(sizes), max(config.group_params or sum(sizes), *sizes))
    return {
        "number": f"{len(sizes)}, {sum(sizes):,} parameters",
        "memory": f"at most {16 * together / 2**20:,.1f} MiB of weights, moments and averages at "
        "once, the teacher, gradients and activations not counted",
    }
