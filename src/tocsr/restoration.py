"""What is restored: the rows of the table of tasks, and what of a row a person may replace."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from tocsr.config import require
from tocsr.errors import did_you_mean
from tocsr.preset_files import read_yaml

DEGRADATIONS = Path(__file__).parent / "assets" / "degradations"
TASKS = Path(__file__).parent / "assets" / "tasks.yaml"
BICUBIC = "bicubic"  # the degradation that needs no settings


def check_degradation(name: str, option: str) -> None:
    """Raises a usage error unless a degradation ships under this name or a YAML file has it."""
    shipped = [BICUBIC, *(path.stem for path in DEGRADATIONS.glob("*.yaml"))]
    require(
        name in shipped or (Path(name).suffix in (".yaml", ".yml") and Path(name).is_file()),
        f"{option}: no degradation and no YAML file is called '{name}'",
        did_you_mean(name, shipped),
    )


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """What there is to say of a task, as `assets/tasks.yaml` has it.

    Args:
        condition: What the network restores from, beside noise. low-resolution: the degraded photo,
            upsampled to the photo's size and encoded (Eq. 19).
        upscale: Factor between the low- and the high-resolution side.
        degradation: How a low-resolution image is made from a photo.
        metrics: What a finished model is measured with.
    """

    condition: Literal["low-resolution"]
    upscale: int
    degradation: str
    metrics: list[str]


@cache
def task_rows() -> dict[str, TaskRow]:
    """The tasks by name."""
    return {name: TaskRow(**row) for name, row in read_yaml(TASKS).items()}


def task_row(name: str) -> TaskRow:
    """The task of that name; raises a usage error where there is none."""
    rows = task_rows()
    require(name in rows, f"no task is called '{name}'", did_you_mean(name, rows))
    return rows[name]


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What the network restores: a row of the table of tasks, parts of which may be replaced.

    Args:
        name: Row that gives what is not given here: sr-x4 or sr-x2.
        upscale: Factor between the low- and the high-resolution side, 1, 2, 4 or 8; 0 takes the
            row's.
        degradation: How a low-resolution image is made from a photo: bicubic, or of second order:
            hard (Real-ESRGAN's), mild (StableSR's), photos (half mild, half bicubic), or as a YAML
            file says; empty takes the row's.
    """

    name: str = "sr-x4"
    upscale: int = 0
    degradation: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "upscale", self.upscale or self.row.upscale)
        object.__setattr__(self, "degradation", self.degradation or self.row.degradation)
        # crops are multiples of 64 pixels, and a factor must divide them
        require(
            self.upscale in (1, 2, 4, 8), f"task.upscale must be 1, 2, 4 or 8, got {self.upscale}"
        )
        check_degradation(self.degradation, "task.degradation")

    @property
    def row(self) -> TaskRow:
        """The row of that name, whatever of it is replaced here."""
        return task_row(self.name)

    @property
    def condition(self) -> str:
        """What the network restores from."""
        return self.row.condition

    @property
    def metrics(self) -> list[str]:
        """What a finished model is measured with."""
        return self.row.metrics

    @property
    def degradation_name(self) -> str:
        """What a model says it was trained on: a shipped name, or the name of a file."""
        return Path(self.degradation).stem
