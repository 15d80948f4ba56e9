"""What search and select are told; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tocsr.config import DataConfig, PhaseConfig, Source, require, require_at_least
from tocsr.preset_files import read_yaml

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class SearchConfig(PhaseConfig):
    """Find the smallest candidate for each tolerance by Bayesian optimisation (Eqs. 12 to 15).

    Args:
        data: Photos and crops of the calibration set.
        num_samples: Samples of the calibration set.
        batch_size: Samples of it that are computed at once.
        objective: What is to be small: the U-Net's parameters, its GMACs at 512 x 512, or its
            latency, measured on this machine stage by stage.
        mode: tolerances: one optimisation for each tolerance of the grid; front: one of cost and
            gap together, which gives the whole front.
        tolerances: The grid: the largest gap (Eq. 11) that a candidate may have.
        num_iterations: Evaluations that the optimiser chooses for each tolerance; of the front, in
            all. Before these comes each surrogate alone in the teacher, which serves all.
        num_parallel: Candidates that are chosen together and may be evaluated side by side.
        abandon: Stops evaluating a candidate once it is certain that its gap is above every
            tolerance; its line of the ledger says how many samples it was measured on. In mode
            front every gap counts, and none is abandoned.
        workers: Processes of this machine that evaluate candidates side by side.
        ray: Ray cluster that evaluates them instead: its address, `auto` for the running one, or
            `local` for one on this machine.
        cache_mb: Memory for features that candidates share, in MiB for each process that
            evaluates.
        latency_pixels: Side of the image that latency is measured for.
        latency_rounds: Measurements of each block, of which the median counts.
        num_frechet_samples: Images that each winner draws for the Frechet distance of table.md; 0
            leaves the distance out.
        num_denoise_steps: Steps in which these are drawn.
    """

    verb: ClassVar[str] = "search"

    data: DataConfig
    num_samples: int = 64
    batch_size: int = 16
    objective: Literal["params", "macs", "latency"] = "params"
    mode: Literal["tolerances", "front"] = "tolerances"
    tolerances: tuple[float, ...] = (0.001, 0.003, 0.005, 0.007)
    num_iterations: int = 24
    num_parallel: int = 1
    abandon: bool = True
    workers: int = 1
    ray: str = ""
    cache_mb: int = 1024
    latency_pixels: int = 512
    latency_rounds: int = 20
    num_frechet_samples: int = 128
    num_denoise_steps: int = 10

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
        require_at_least(0, self, "num_iterations", "cache_mb")
        counts = ("num_parallel", "workers", "latency_rounds", "num_denoise_steps")
        require_at_least(1, self, *counts)
        require(
            self.latency_pixels > 0 and self.latency_pixels % 64 == 0,
            f"latency_pixels must be a positive multiple of 64, got {self.latency_pixels}",
        )
        require(
            self.num_frechet_samples == 0 or self.num_frechet_samples >= 2,
            f"num_frechet_samples must be 0 or at least 2, got {self.num_frechet_samples}",
        )

    def num_evaluations(self, num_swaps: int) -> int:
        """Evaluations, at most, in a space of so many single swaps."""
        runs = len(self.tolerances) if self.mode == "tolerances" else 1
        return num_swaps + runs * self.num_iterations


def settings_of(folder: Path, told: PhaseConfig) -> SearchConfig:
    """The settings of the search in a run folder.

    Args:
        folder: Of a search.
        told: Gives the place of the runs, the device and the threads of now.
    """
    values = read_yaml(folder / "config.yaml")
    sources = [Source(**source) for source in values["data"]["sources"]]
    values["data"] = DataConfig(**{**values["data"], "sources": sources})
    values["tolerances"] = tuple(values["tolerances"])
    values |= {"runs": told.runs, "device": told.device, "num_threads": told.num_threads}
    return SearchConfig(**values)


@dataclass(frozen=True, kw_only=True)
class SelectConfig(PhaseConfig):
    """Pick one of the search's winners and assemble it, without training (3.2.3, Eq. 9).

    Args:
        budget: What the compact U-Net should cost, in parameters, GMACs or milliseconds as the
            search's objective was.
        rule: under: nearest to the budget and not above it; nearest: on either side; fewest: the
            smallest of all winners, whatever the budget.
    """

    verb: ClassVar[str] = "select"

    budget: float = 130_000_000
    rule: Literal["under", "nearest", "fewest"] = "under"
