"""search: the smallest faithful candidate for each tolerance of a grid (paper 3.2.3).

```
runs/tiny/search/
  ledger.jsonl     one line per evaluation
  latency.json     what was measured of each block, where latency is the objective
  front.json       the lines of the ledger that no other one beats in cost and gap
  front.png        cost and gap of all candidates, the front, the tolerances and their winners
  table.md         the winners, like the paper's table S6
```
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tocsr.devices import pick_device
from tocsr.files import read_json, write_json, write_text
from tocsr.models.folders import load_unet
from tocsr.models.library import library_costs
from tocsr.models.variants import TEACHER
from tocsr.processes import from_main
from tocsr.runs import phase, require_result
from tocsr.search.additive import single_swaps
from tocsr.search.bayesopt import optimize
from tocsr.search.evaluation import (
    as_settings,
    draw_features,
    forget,
    measure,
    measure_power,
    networks,
)
from tocsr.search.frechet import frechet_distance
from tocsr.search.front import optimize_front
from tocsr.search.latency import measured_latency
from tocsr.search.ledger import Ledger
from tocsr.search.objectives import OBJECTIVES, PIXELS, Costs
from tocsr.search.outcome import draw_front, front_of, latency_note, winners_of
from tocsr.search.space import SearchSpace, cheapest_feasible
from tocsr.search.table import winners_table
from tocsr.tasks import executor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from tocsr.runs import Report, Run
    from tocsr.search.configs import SearchConfig
    from tocsr.search.objectives import Library
    from tocsr.search.space import Candidate
    from tocsr.tasks import Executor


def block_costs(config: SearchConfig, settings: bytes, folder: Path, library: Library) -> Costs:
    """What every block costs.

    Latency is measured once and kept, so that a search that goes on has the numbers it began with.
    """
    counted = library_costs(load_unet(config.runs / "expand-unet" / "unet"), library, PIXELS)
    if config.objective != "latency":
        return Costs(counted)
    path = folder / "latency.json"
    if not path.exists():
        nets = networks(settings)
        pixels, rounds = config.latency_pixels, config.latency_rounds
        times = measured_latency(nets.teacher, nets.surrogates, library, pixels, rounds)
        write_json(path, times)
    return Costs(counted, read_json(path)["median_ms"])


@dataclass
class Search:
    """One search under way.

    Args:
        config: What it was told.
        space: What it chooses from.
        costs: What candidates cost.
        ledger: What was observed.
        pool: Evaluates.
        settings: The configuration as the tasks of the pool take it.
        report: Receives progress.
    """

    config: SearchConfig
    space: SearchSpace
    costs: Costs
    ledger: Ledger
    pool: Executor
    settings: bytes
    report: Report

    def run(self, teacher_power: float) -> None:
        """Observes what the optimiser chooses; each evaluation is on disk before the next."""
        evaluate = partial(self.evaluated, teacher_power)
        config, known = self.config, self.ledger.gaps
        if config.mode == "front":
            optimize_front(
                self.space,
                evaluate,
                config.num_iterations,
                config.seed,
                observations=known,
                num_parallel=config.num_parallel,
            )
        else:
            optimize(
                self.space,
                evaluate,
                config.tolerances,
                config.num_iterations,
                config.seed,
                observations=known,
                num_parallel=config.num_parallel,
            )

    def evaluated(
        self, teacher_power: float, candidates: Sequence[Candidate]
    ) -> Iterator[tuple[Candidate, float]]:
        """Candidates and their gaps as they finish; in order, so that neighbours share most."""
        ordered = sorted(candidates)
        work = partial(measure, self.settings, self.abandon_above)
        choices = [self.ledger.named(candidate) for candidate in ordered]
        for index, measured in self.pool.map(work, choices):
            candidate = ordered[index]
            self.ledger.add_(candidate, self.costs.of(choices[index]), measured, teacher_power)
            done = len(self.ledger.records)
            total = self.config.num_evaluations(len(single_swaps(self.space)))
            self.report("search", done, max(done, total), self.incumbents())
            yield candidate, measured.gap

    @property
    def abandon_above(self) -> float:
        """The gap from which evaluating goes on for nothing."""
        may = self.config.abandon and self.config.mode == "tolerances"
        return max(self.config.tolerances) if may else math.inf

    def incumbents(self) -> dict[str, float]:
        """What the cheapest feasible candidate of each tolerance costs so far."""
        key, gaps = OBJECTIVES[self.config.objective].key, self.ledger.gaps
        best = {t: cheapest_feasible(self.space, gaps, t) for t in self.config.tolerances}
        return {
            f"{key} at {tolerance:g}": self.ledger.records[candidate][key]
            for tolerance, candidate in best.items()
            if candidate is not None
        }

    def add_frechet_(self, winners: list[dict[str, Any]]) -> None:
        """Adds to each winner how far its samples are from the teacher's."""
        teacher = dict.fromkeys(self.ledger.library, TEACHER)
        choices = [teacher]
        for winner in winners:
            if winner["candidate"] not in choices:
                choices.append(winner["candidate"])
        features: dict[int, Tensor] = {}
        for index, drawn in self.pool.map(partial(draw_features, self.settings), choices):
            features[index] = drawn
            self.report("samples", len(features), len(choices), {})
        for winner in winners:
            drawn = features[choices.index(winner["candidate"])]
            winner["frechet_distance"] = frechet_distance(drawn, features[0])


@phase
@from_main
def run(config: SearchConfig, run: Run, report: Report) -> dict[str, Any]:
    """Evaluates candidates chosen by Bayesian optimisation; each is a line of `ledger.jsonl`."""
    calibrated = require_result(config, "calibrate")
    library, surrogates = calibrated["library"], calibrated["surrogates"]
    settings = as_settings(config)
    pick_device("cpu", config.num_threads)  # where the optimiser computes, whoever evaluates
    costs = block_costs(config, settings, run.folder, library)
    space = SearchSpace(costs.by_stage(config.objective))
    ledger = Ledger(run.folder / "ledger.jsonl", library)
    try:
        with executor(config.workers, config.ray) as pool:
            search = Search(config, space, costs, ledger, pool, settings, report)
            [(_, power)] = pool.map(partial(measure_power, settings), [None])
            search.run(power)
            winners = winners_of(config, space, ledger)
            if config.num_frechet_samples:
                search.add_frechet_(winners)
    finally:
        forget()
    result = {
        "objective": config.objective,
        "winners": winners,
        "evaluations": len(ledger.records),
        "candidates": space.num_candidates,
        "teacher_power": power,
    }
    table = winners_table(winners, surrogates, latency_note(run.folder))
    write_text(run.folder / "table.md", table)
    write_json(run.folder / "front.json", front_of(config, space, ledger))
    draw_front(run.folder / "front.png", run.folder, ledger, result, config.tolerances)
    return result
