"""What a finished search comes to: its winners, its front, and the picture of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tocsr.errors import TocsrError
from tocsr.files import read_json
from tocsr.search.objectives import OBJECTIVES
from tocsr.search.plot import write_front
from tocsr.search.space import cheapest_feasible, pareto_front

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tocsr.search.configs import SearchConfig
    from tocsr.search.ledger import Ledger
    from tocsr.search.space import SearchSpace

Record = dict[str, Any]  # a line of the ledger


def front_of(config: SearchConfig, space: SearchSpace, ledger: Ledger) -> list[Record]:
    """The evaluations on the whole calibration set that no other one beats, cheapest first."""
    whole = {
        candidate: record["gap"]
        for candidate, record in ledger.records.items()
        if record["num_samples"] == config.num_samples
    }
    return [ledger.records[candidate] for candidate in pareto_front(space, whole)]


def winners_of(config: SearchConfig, space: SearchSpace, ledger: Ledger) -> list[Record]:
    """What select chooses from, each with its `tolerance`.

    The cheapest feasible candidate of each tolerance (Eqs. 13 to 15); in mode front, every
    candidate of the front that is within one, with the least such.

    Raises:
        TocsrError: No candidate is within the largest tolerance.
    """
    winners = []
    if config.mode == "front":
        for record in front_of(config, space, ledger):
            if within := [t for t in config.tolerances if record["gap"] <= t]:
                winners.append({"tolerance": min(within), **record})
    else:
        for tolerance in config.tolerances:
            best = cheapest_feasible(space, ledger.gaps, tolerance)
            if best is not None:
                winners.append({"tolerance": tolerance, **ledger.records[best]})
    if not winners:
        raise TocsrError(
            f"no candidate has a gap of at most {max(config.tolerances)}; the least seen is "
            f"{min(ledger.gaps.values()):.4g}",
            "raise tolerances, or calibrate longer",
        )
    return winners


def latency_note(folder: Path) -> str:
    """What a search's `latency.json` measured, and where; empty without one."""
    path = folder / "latency.json"
    if not path.exists():
        return ""
    told = read_json(path)
    return (
        f"Latency: the sum of the blocks' median times for one image of {told['pixels']} x "
        f"{told['pixels']}, on {told['machine']}, threads: {told['num_threads']}."
    )


def draw_front(
    path: Path,
    searched: Path,
    ledger: Ledger,
    result: Mapping[str, Any],
    tolerances: tuple[float, ...],
    **chosen: Any,
) -> None:
    """Draws a finished search.

    Args:
        path: The PNG file to write.
        searched: The search's folder, with its `front.json`.
        ledger: All evaluations.
        result: Of the search.
        tolerances: The grid.
        chosen: `selected` and `budget` of `write_front`.
    """
    write_front(
        path,
        list(ledger.records.values()),
        read_json(searched / "front.json"),
        result["winners"],
        tolerances,
        result["teacher_power"],
        OBJECTIVES[result["objective"]],
        **chosen,
    )
