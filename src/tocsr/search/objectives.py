"""What the search makes small: parameters, GMACs or latency, each a sum over stages (Eq. 10).

The paper counts parameters. Not in the paper: GMACs, and latency measured on this machine, since
fewer parameters alone do not make a network faster.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tocsr.models.library import LibraryCosts

PIXELS = 512  # side of the image that GMACs are counted for
REST = "rest"  # what belongs to no stage: the ends of the U-Net and the time embedding

Library = dict[str, list[str]]  # stage -> its variants' names


@dataclass(frozen=True)
class Objective:
    """One thing that may be small.

    Args:
        key: Its name in the ledger.
        unit: What it is counted in.
    """

    key: str
    unit: str

    def text(self, cost: float) -> str:
        """A cost with its unit."""
        return f"{cost:,.0f} {self.unit}" if self.key == "params" else f"{cost:.4g} {self.unit}"


OBJECTIVES = {
    "params": Objective("params", "parameters"),
    "macs": Objective("macs_g", "GMACs"),
    "latency": Objective("latency_ms", "ms"),
}


@dataclass(frozen=True)
class Costs:
    """What every block of a library costs, in every way that is known.

    Args:
        counted: Parameters and MACs for an image of `PIXELS` x `PIXELS`.
        latency_ms: `stage/variant` and `rest` -> milliseconds; empty where it was not measured.
    """

    counted: LibraryCosts
    latency_ms: Mapping[str, float] = field(default_factory=dict)

    def by_stage(self, objective: str) -> tuple[tuple[float, ...], ...]:
        """The costs of a `SearchSpace` for one of `OBJECTIVES`."""
        return tuple(
            tuple(self._block(objective, stage, name) for name in row)
            for stage, row in self.counted.stages.items()
        )

    def _block(self, objective: str, stage: str, variant: str) -> float:
        cost = self.counted.stages[stage][variant]
        match objective:
            case "params":
                return float(cost.params)
            case "macs":
                return cost.macs_g
            case "latency":
                return self.latency_ms[f"{stage}/{variant}"]
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective}")

    def of(self, choice: Mapping[str, str]) -> dict[str, float]:
        """What a candidate costs, as its line of the ledger says, the rest counted too (Eq. 10).

        Args:
            choice: Stage -> variant, every stage named.
        """
        cost = self.counted.of(choice)
        figures: dict[str, float] = {"params": cost.params, "macs_g": cost.macs_g}
        if self.latency_ms:
            blocks = [self.latency_ms[f"{stage}/{name}"] for stage, name in choice.items()]
            figures["latency_ms"] = sum(blocks) + self.latency_ms[REST]
        return figures
