"""select: one winner of the search, nearest to the budget, assembled without training (3.2.3).

```
runs/tiny/select/
  unet/        the compact U-Net
  front.png    the search's picture, with the budget and what was selected
```
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from tocsr.devices import pick_device
from tocsr.errors import TocsrError
from tocsr.files import read_json
from tocsr.models.compact import assembled
from tocsr.models.cost import unet_cost
from tocsr.models.folders import load_surrogates, load_unet
from tocsr.models.variants import TEACHER
from tocsr.processes import from_main
from tocsr.runs import phase, require_result
from tocsr.search.configs import settings_of
from tocsr.search.latency import median_ms, unet_inputs
from tocsr.search.ledger import Ledger
from tocsr.search.objectives import OBJECTIVES, PIXELS
from tocsr.search.outcome import draw_front
from tocsr.search.remeasure import remeasured_gap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tocsr.models.compact import CompactUNet
    from tocsr.runs import Report, Run
    from tocsr.search.configs import SelectConfig
    from tocsr.search.objectives import Objective

Record = dict[str, Any]  # a line of the ledger


def pick(
    winners: Sequence[Record], objective: Objective, budget: float, rule: str
) -> Record | None:
    """The winner that a rule of `SelectConfig` picks; of equal costs the one of smaller gap.

    Args:
        winners: Each with its cost and `gap`.
        objective: What the cost is.
        budget: In units of the objective.
        rule: under, nearest or fewest.

    Returns:
        None where the rule is `under` and all cost more.
    """
    key = objective.key
    if rule == "fewest":
        return min(winners, key=lambda w: (w[key], w["gap"]))
    if rule == "under":
        winners = [w for w in winners if w[key] <= budget]
    return min(winners, key=lambda w: (abs(w[key] - budget), w["gap"]), default=None)


def explanation(winner: Record, objective: Objective, budget: float, rule: str) -> str:
    """Why this winner, in one sentence."""
    why = {
        "under": f"of the winners the nearest to the budget of {objective.text(budget)} and not "
        "above it",
        "nearest": f"of the winners the nearest to the budget of {objective.text(budget)}",
        "fewest": "the smallest of the winners, whatever the budget",
    }[rule]
    cost, gap = objective.text(winner[objective.key]), winner["gap"]
    return f"{cost}: {why}; tolerance {winner['tolerance']:g}, gap {gap:.3g}"


def rounded_up(value: float, digits: int = 3) -> float:
    """The least number of so many significant digits that is not below a positive one."""
    size = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    near = float(f"{value:.{digits}g}")
    return near if near >= value else float(f"{near + size:.{digits}g}")


def nothing_within(
    winners: Sequence[Record],
    records: Sequence[Record],
    objective: Objective,
    budget: float,
    tolerances: Sequence[float],
) -> TocsrError:
    """What to say when no winner is within the budget, and which tolerance would let one in.

    Args:
        winners: All above the budget.
        records: All evaluations.
        objective: What the cost is.
        budget: In units of the objective.
        tolerances: The grid of the search.
    """
    key, most = objective.key, max(record["num_samples"] for record in records)
    least = min(winner[key] for winner in winners)
    message = (
        f"no winner of the search has at most {objective.text(budget)}, the smallest has "
        f"{objective.text(least)}"
    )
    within = [record for record in records if record[key] <= budget]
    if not within:
        cheapest = objective.text(min(record[key] for record in records))
        return TocsrError(message, f"raise budget: the least evaluated at all has {cheapest}")
    nearest = min(within, key=lambda record: record["gap"])
    about = "" if nearest["num_samples"] == most else "about "
    return TocsrError(
        message,
        f"raise budget, or loosen the largest tolerance of the search from {max(tolerances):g} to "
        f"{about}{rounded_up(nearest['gap']):g}, the least gap seen within the budget",
    )


def _latency_of_whole(config: SelectConfig, unet: CompactUNet) -> float:
    """Milliseconds of the assembled network, measured as the search measured its blocks."""
    told = read_json(config.runs / "search" / "latency.json")
    device = pick_device(config.device, config.num_threads)
    call = partial(unet.to(device), *unet_inputs(unet, told["pixels"]))
    return median_ms({"whole": call}, told["num_rounds"], device)["whole"]


def _assembled(config: SelectConfig, winner: Record) -> tuple[CompactUNet, CompactUNet]:
    """The teacher and the network of a winner."""
    teacher = load_unet(config.runs / "expand-unet" / "unet")
    names = [f"{s}/{v}" for s, v in winner["candidate"].items() if v != TEACHER]
    surrogates = load_surrogates(teacher, config.runs / "calibrate" / "surrogates", names)
    return teacher, assembled(teacher, winner["candidate"], surrogates)


@phase
@from_main
def run(config: SelectConfig, run: Run, report: Report) -> dict[str, Any]:
    """Writes the assembled U-Net to `unet/`, and measures its gap anew from there."""
    found = require_result(config, "search")
    library = require_result(config, "calibrate")["library"]
    settings = settings_of(config.runs / "search", config)
    searched = config.runs / "search"
    ledger = Ledger(searched / "ledger.jsonl", library)
    objective, budget = OBJECTIVES[found["objective"]], config.budget
    winner = pick(found["winners"], objective, budget, config.rule)
    if winner is None:
        (run.folder / "config.yaml").unlink()  # nothing is begun, so another budget may be told
        records = list(ledger.records.values())
        raise nothing_within(found["winners"], records, objective, budget, settings.tolerances)
    teacher, unet = _assembled(config, winner)
    run.save(unet, "unet")
    chosen = {"selected": winner, "budget": None if config.rule == "fewest" else budget}
    draw_front(run.folder / "front.png", searched, ledger, found, settings.tolerances, **chosen)
    before, after = unet_cost(teacher, PIXELS), unet_cost(unet, PIXELS)
    result = {
        **winner,
        "explanation": explanation(winner, objective, budget, config.rule),
        "remeasured_gap": remeasured_gap(config, winner["gap"]),
        "macs_g": after.macs_g,
        "teacher_params": before.params,
        "teacher_macs_g": before.macs_g,
        "fewer_params": before.params / after.params,
        "fewer_macs": before.macs / after.macs,
    }
    if found["objective"] == "latency":
        result["whole_latency_ms"] = _latency_of_whole(config, unet)
    return result
