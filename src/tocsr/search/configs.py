"""What search and select are told; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from tocsr.config import DataConfig, PhaseConfig, require


@dataclass(frozen=True, kw_only=True)
class SearchConfig(PhaseConfig):
    """Find the smallest candidate for each tolerance by Bayesian optimisation (Eqs. 12 to 15).

    Args:
        data: Photos and crops of the calibration set.
        num_samples: Samples of the calibration set.
        batch_size: Samples of it that are computed at once.
        tolerances: The grid: the largest gap (Eq. 11) that a candidate may have.
        num_initial: Evaluations of the start design, shared by all tolerances.
        num_iterations: Evaluations that the optimiser chooses for each tolerance.
    """

    verb: ClassVar[str] = "search"

    data: DataConfig
    num_samples: int = 64
    batch_size: int = 16
    tolerances: tuple[float, ...] = (0.001, 0.003, 0.005, 0.007)
    num_initial: int = 16
    num_iterations: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.tolerances) > 0 and all(t > 0 for t in self.tolerances),
            f"tolerances must be above 0, got {list(self.tolerances)}",
        )
        require(
            self.num_samples % self.batch_size == 0,
            f"num_samples must be a multiple of batch_size, got {self.num_samples} and "
            f"{self.batch_size}",
        )


@dataclass(frozen=True, kw_only=True)
class SelectConfig(PhaseConfig):
    """Pick one of the search's winners and assemble it, without training (3.2.3, Eq. 9).

    Args:
        budget: Parameters that the compact U-Net should have.
        rule: under: nearest to the budget and not above it; nearest: on either side; fewest: the
            smallest of all winners, whatever the budget.
    """

    verb: ClassVar[str] = "select"

    budget: int = 130_000_000
    rule: Literal["under", "nearest", "fewest"] = "under"
