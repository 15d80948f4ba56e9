"""How many evaluations each strategy of a search needs, on a space whose every gap is known.

    python benchmarks/search_strategies.py --table gaps.json --num_seeds 20

For each tolerance of the grid: the true optimum, then how many evaluations a strategy makes before
it has seen a feasible candidate of at most 1.01 times that cost, and the optimum itself. What is
evaluated for one tolerance is known to all, and a budget is for the whole grid. Strategies stop
when they have seen every optimum, or at the budget, a share of the space.

The table is JSON: `costs` and `proxies`, per stage and variant, the first variant the teacher's or
the nearest to it; `gaps` of all candidates by their choices, "0,1,2"; and `tolerances`. A
`proxies` entry is a surrogate's held-out calibration loss.

Optuna's sampler is in the extra `bench`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from common import table
from strategies import (
    NEAR,
    STRATEGIES,
    WITHOUT_CHANCE,
    Tally,
    Truth,
    carried_out,
    median,
    read_truth,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

NEVER = float("inf")


def optimum_rows(truth: Truth) -> list[list[str]]:
    """What there is to find."""
    rows = []
    for tolerance, optimum in truth.optima.items():
        feasible = [truth.costs[a] for a, gap in truth.gaps.items() if gap <= tolerance]
        near = sum(cost <= NEAR * optimum for cost in feasible)
        rows.append([f"{tolerance:g}", f"{optimum:g}", str(len(feasible)), str(near)])
    return rows


def latest(found: dict[float, int], truth: Truth) -> float:
    """When the last tolerance of the grid was served."""
    return max(found.get(tolerance, NEVER) for tolerance in truth.tolerances)


def shown(counts: list[float]) -> str:
    """The median, and of how many runs it is not beyond the budget."""
    middle, num = median(counts), sum(count < NEVER for count in counts)
    return f"{middle:.0f} ({num})" if middle < NEVER else f"- ({num})"


def strategy_row(name: str, truth: Truth, tallies: list[Tally], pace: float) -> list[str]:
    """One line: every tolerance, then the whole grid; `pace` in seconds for each evaluation."""
    cells = [name]
    for tolerance in truth.tolerances:
        near = shown([tally.near.get(tolerance, NEVER) for tally in tallies])
        hit = shown([tally.hit.get(tolerance, NEVER) for tally in tallies])
        cells.append(near if near == hit else f"{near}, {hit}")
    return [
        *cells,
        shown([latest(tally.near, truth) for tally in tallies]),
        shown([latest(tally.hit, truth) for tally in tallies]),
        f"{pace:.3f}",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--tolerances", type=float, nargs="+", default=[])
    parser.add_argument("--num_seeds", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.03, help="The budget, of the space.")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    truth = read_truth(options.table, options.tolerances)
    budget = int(options.share * len(truth.gaps))
    print(f"{len(truth.gaps):,} candidates, {budget} evaluations at most\n")
    print(table(["tolerance", "least cost", "feasible", "within 1 %"], optimum_rows(truth)))
    rows = []
    for name in options.strategies:
        began, tallies = time.perf_counter(), []
        for seed in range(1 if name in WITHOUT_CHANCE else options.num_seeds):
            tallies.append(carried_out(STRATEGIES[name], truth, budget, seed))
            found = f"{len(tallies[-1].near)} of {len(truth.tolerances)} tolerances"
            print(f"{name}, seed {seed}: {found}", file=sys.stderr, flush=True)
        seconds = time.perf_counter() - began
        pace = seconds / sum(len(tally.observations) for tally in tallies)
        if name in WITHOUT_CHANCE:
            tallies *= options.num_seeds  # every seed is the same
        rows.append(strategy_row(name, truth, tallies, pace))
    grid = [f"{tolerance:g}" for tolerance in truth.tolerances]
    head = ["strategy", *grid, "grid, within 1 %", "grid, optima", "s / evaluation"]
    print(
        "\nMedian evaluations to within 1 % and, where it differs, to the optimum, of "
        f"{options.num_seeds} seeds;\nin brackets how many seeds got there within the budget.\n"
    )
    print(table(head, rows))


if __name__ == "__main__":
    main()
