"""recipe: the phases of a preset in order, each skipped where it is finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tocsr.config import PhaseConfig, require
from tocsr.options import hand_on, read_config
from tocsr.verbs import PHASES, runner

if TYPE_CHECKING:
    from tocsr.runs import Report


@dataclass(frozen=True, kw_only=True)
class RecipeConfig(PhaseConfig):
    """Run the phases of a preset in order; finished ones are skipped.

    Args:
        phases: Their names.
    """

    verb: ClassVar[str] = "recipe"

    phases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.phases if name not in PHASES]
        require(not unknown, f"phases must be among {', '.join(PHASES)}, got {', '.join(unknown)}")


def run(config: RecipeConfig, report: Report) -> dict[str, Any]:
    """Runs every phase with the preset's settings.

    Returns:
        Phase -> its result.
    """
    return {
        name: runner(name)(read_config(name, hand_on(config))[0], report) for name in config.phases
    }
