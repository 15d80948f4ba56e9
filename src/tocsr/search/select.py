"""select: one winner of the search, nearest to the budget, assembled without training (3.2.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tocsr.errors import TocsrError
from tocsr.models.compact import assembled
from tocsr.models.cost import unet_cost
from tocsr.models.folders import load_surrogates, load_unet
from tocsr.models.variants import TEACHER
from tocsr.processes import from_main
from tocsr.runs import phase, require_result

if TYPE_CHECKING:
    from tocsr.runs import Report, Run
    from tocsr.search.configs import SelectConfig

PIXELS = 512  # the size of image that GMACs are stated for


def pick(winners: list[dict[str, Any]], budget: int, rule: str) -> dict[str, Any]:
    """The winner that a rule of `SelectConfig` picks; of equal sizes the one of smaller gap.

    Args:
        winners: Each with `params` and `gap`.
        budget: Parameters.
        rule: under, nearest or fewest.

    Raises:
        TocsrError: No winner is within the budget.
    """
    if rule == "fewest":
        return min(winners, key=lambda w: (w["params"], w["gap"]))
    if rule == "under":
        within = [w for w in winners if w["params"] <= budget]
        if not within:
            smallest = min(w["params"] for w in winners)
            raise TocsrError(
                f"no winner of the search has at most {budget} parameters, the smallest has "
                f"{smallest}",
                "raise budget, or search larger tolerances",
            )
        winners = within
    return min(winners, key=lambda w: (abs(w["params"] - budget), w["gap"]))


@phase
@from_main
def run(config: SelectConfig, run: Run, report: Report) -> dict[str, Any]:
    """Writes the assembled U-Net to `unet/`."""
    found = require_result(config, "search")
    winner = pick(found["winners"], config.budget, config.rule)
    teacher = load_unet(config.runs / "expand-unet" / "unet")
    names = [f"{s}/{v}" for s, v in winner["candidate"].items() if v != TEACHER]
    surrogates = load_surrogates(teacher, config.runs / "calibrate" / "surrogates", names)
    unet = assembled(teacher, winner["candidate"], surrogates)
    run.save(unet, "unet")
    before, after = unet_cost(teacher, PIXELS), unet_cost(unet, PIXELS)
    return {
        **winner,
        "macs_g": after.macs_g,
        "teacher_params": before.params,
        "teacher_macs_g": before.macs_g,
        "fewer_params": before.params / after.params,
        "fewer_macs": before.macs / after.macs,
    }
