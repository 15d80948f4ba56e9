"""Ways to search a space whose every gap is known, and how soon each finds what there is to find.

A strategy asks a `Tally` for gaps. What it has asked for is shared between the tolerances of the
grid, whichever the strategy, and only candidates that were not asked for before count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from heapq import nsmallest
from itertools import cycle
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import optuna

from tocsr.search.additive import AdditiveGap, single_swaps
from tocsr.search.bayesopt import optimize
from tocsr.search.designs import Losses, knapsack_front
from tocsr.search.space import Candidate, SearchSpace, cheapest_feasible
from tocsr.seeding import derive_seed, numpy_rng

if TYPE_CHECKING:
    from pathlib import Path

NUM_INITIAL = 16  # random candidates that a strategy starts from
NEAR = 1.01  # of the optimum's cost
_NUM_PARENTS = 20
_TOURNAMENT = 3
_PENALTY = 1.0  # at twice the root of the tolerance, as a share of the dearest cost
_MAX_TRIES = 100


@dataclass(frozen=True)
class Truth:
    """A space and the gap of each of its candidates.

    Args:
        space: The candidates and their costs.
        proxies: Held-out calibration losses by stage and variant.
        gaps: Of every candidate.
        tolerances: The grid.
    """

    space: SearchSpace
    proxies: Losses
    gaps: dict[Candidate, float]
    tolerances: list[float]

    @cached_property
    def costs(self) -> dict[Candidate, float]:
        """Of every candidate."""
        candidates = self.space.all_candidates()
        costs = self.space.costs_of(candidates).tolist()
        return dict(zip(map(tuple, candidates.tolist()), costs, strict=True))

    @cached_property
    def optima(self) -> dict[float, float]:
        """The cost of the cheapest feasible candidate, per tolerance."""
        return {
            tolerance: min(self.costs[a] for a, gap in self.gaps.items() if gap <= tolerance)
            for tolerance in self.tolerances
        }


def read_truth(path: Path, tolerances: list[float]) -> Truth:
    """A table of costs, proxies and all gaps; its own tolerances where none are given."""
    table = json.loads(path.read_text(encoding="utf-8"))
    costs, proxies = (tuple(map(tuple, table[name])) for name in ("costs", "proxies"))
    gaps = {tuple(map(int, name.split(","))): gap for name, gap in table["gaps"].items()}
    return Truth(SearchSpace(costs), proxies, gaps, tolerances or table["tolerances"])


class Over(Exception):  # noqa: N818
    """Everything is found, or the budget is spent."""


@dataclass
class Tally:
    """Gives gaps, counts them, and notes when each tolerance's optimum was found.

    Args:
        truth: What there is to find.
        budget: Evaluations for the whole grid.
    """

    truth: Truth
    budget: int
    observations: dict[Candidate, float] = field(default_factory=dict)
    near: dict[float, int] = field(default_factory=dict)
    hit: dict[float, int] = field(default_factory=dict)

    def gap(self, candidate: Candidate) -> float:
        """The candidate's gap.

        Raises:
            Over: It was the last one needed, or allowed.
        """
        if candidate not in self.observations:
            gap, cost = self.truth.gaps[candidate], self.truth.costs[candidate]
            self.observations[candidate] = gap
            count = len(self.observations)
            for tolerance, optimum in self.truth.optima.items():
                if gap <= tolerance and cost <= NEAR * optimum:
                    self.near.setdefault(tolerance, count)
                if gap <= tolerance and cost <= optimum:
                    self.hit.setdefault(tolerance, count)
            if len(self.hit) == len(self.truth.optima) or count >= self.budget:
                raise Over
        return self.observations[candidate]

    def evaluate(self, batch: list[Candidate]) -> Iterator[tuple[Candidate, float]]:
        """Gaps as `tocsr.search.bayesopt.optimize` asks for them."""
        yield from ((candidate, self.gap(candidate)) for candidate in batch)

    def cheaper(self, tolerance: float) -> list[Candidate]:
        """Who is not observed and would be the winner if it were feasible."""
        best = cheapest_feasible(self.truth.space, self.observations, tolerance)
        bound = math.inf if best is None else self.truth.costs[best]
        costs, observed = self.truth.costs, self.observations
        return [a for a, cost in costs.items() if cost < bound and a not in observed]


Strategy: TypeAlias = Callable[[Tally, int], None]  # asks the tally until it says `Over`


def bayesian(tally: Tally, seed: int) -> None:
    """Ours: single swaps, then a Gaussian process of what their sum does not say."""
    truth = tally.truth
    num = tally.budget  # no limit of its own
    optimize(truth.space, tally.evaluate, truth.tolerances, num, seed)


def at_random(tally: Tally, seed: int) -> None:
    """Every candidate once, in random order."""
    candidates = list(tally.truth.gaps)
    for row in numpy_rng(seed, "random").permutation(len(candidates)):
        tally.gap(candidates[row])


def evolutionary(tally: Tally, seed: int) -> None:
    """Tournament, uniform crossover and mutation; the constraint is a penalty.

    The tolerances take turns. In each turn the parents are the fittest of all that was observed,
    and one child that is new is made. The fitness is the cost as a share of the dearest, and a
    penalty for what the root of the gap exceeds that of the tolerance by.
    """
    rng, space = numpy_rng(seed, "evolutionary"), tally.truth.space
    costs, gaps = tally.truth.costs, tally.observations
    dearest = max(costs.values())

    def fitness(candidate: Candidate, tolerance: float) -> float:
        excess = math.sqrt(gaps[candidate] / tolerance) - 1
        return costs[candidate] / dearest + _PENALTY * max(excess, 0.0)

    def random_candidate() -> Candidate:
        return tuple(int(rng.choice(allowed)) for allowed in space.choices)

    while len(tally.observations) < NUM_INITIAL:
        tally.gap(random_candidate())
    for tolerance in cycle(tally.truth.tolerances):
        parents = nsmallest(_NUM_PARENTS, gaps, key=partial(fitness, tolerance=tolerance))
        for _ in range(_MAX_TRIES):
            drawn = rng.integers(len(parents), size=(2, _TOURNAMENT)).min(1)
            genes = zip(*(parents[place] for place in drawn), space.choices, strict=True)
            child = tuple(
                int(rng.choice(allowed))
                if rng.random() < 1 / len(space.choices)
                else (first, second)[rng.integers(2)]
                for first, second, allowed in genes
            )
            if child not in tally.observations:
                break
        tally.gap(child)


def optuna_gp(tally: Tally, seed: int) -> None:
    """Optuna's constrained Gaussian process: one study per tolerance, all told everything.

    The constraint is the root of the gap, as ours. A proposal known already is replaced by a random
    candidate that is cheaper than the best.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng, space = numpy_rng(seed, "optuna"), tally.truth.space
    names = [f"stage {stage}" for stage in range(len(space.costs))]
    kinds = {
        name: optuna.distributions.CategoricalDistribution(allowed)
        for name, allowed in zip(names, space.choices, strict=True)
    }

    studies = {
        tolerance: optuna.create_study(
            sampler=optuna.samplers.GPSampler(
                seed=derive_seed(seed, "sampler", number) % 2**32,
                n_startup_trials=NUM_INITIAL,
                deterministic_objective=True,
            )
        )
        for number, tolerance in enumerate(tally.truth.tolerances)
    }
    told: dict[float, int] = dict.fromkeys(studies, 0)
    for tolerance, study in cycle(studies.items()):
        for candidate, gap in list(tally.observations.items())[told[tolerance] :]:
            trial = optuna.trial.create_trial(
                params=dict(zip(names, candidate, strict=True)),
                distributions=kinds,
                value=tally.truth.costs[candidate],
                constraints={"gap": math.sqrt(gap) - math.sqrt(tolerance)},
            )
            study.add_trial(trial)
        told[tolerance] = len(tally.observations)
        asked = study.ask(kinds)
        study.tell(asked, state=optuna.trial.TrialState.FAIL)  # told above, as all others are
        candidate = tuple(asked.params[name] for name in names)
        if candidate in tally.observations:
            others = tally.cheaper(tolerance) or list(tally.truth.gaps)
            candidate = others[rng.integers(len(others))]
        tally.gap(candidate)


def _by_ranking(tally: Tally, losses: Losses) -> None:
    """Trusts the order of the sums of losses.

    The tolerances take turns. First each one bisects the solutions of the knapsack. Then it goes
    through the candidates that are cheaper than its winner, by their sum.
    """
    front = knapsack_front(tally.truth.space, losses)
    sums = {a: sum(t[k] for t, k in zip(losses, a, strict=True)) for a in tally.truth.gaps}
    bounds = {tolerance: (-1, len(front) - 1) for tolerance in tally.truth.tolerances}
    for tolerance in cycle(bounds):
        low, high = bounds[tolerance]  # too large a gap, small enough a gap
        if high - low > 1:
            middle = (low + high) // 2
            feasible = tally.gap(front[middle]) <= tolerance
            bounds[tolerance] = (low, middle) if feasible else (middle, high)
        elif cheaper := tally.cheaper(tolerance):
            tally.gap(min(cheaper, key=sums.__getitem__))


def by_calibration_losses(tally: Tally, seed: int) -> None:
    """The knapsack over the sum of calibration losses; there is nothing random in it."""
    _by_ranking(tally, tally.truth.proxies)


def by_single_swaps(tally: Tally, seed: int) -> None:
    """The knapsack over the sum of the gaps that each variant makes alone, asked for first."""
    space = tally.truth.space
    for candidate in single_swaps(space):
        tally.gap(candidate)
    _by_ranking(tally, AdditiveGap.observed(space, tally.observations).added)


STRATEGIES: dict[str, Strategy] = {
    "ours": bayesian,
    "random": at_random,
    "evolutionary": evolutionary,
    "Optuna GPSampler": optuna_gp,
    "knapsack, calibration losses": by_calibration_losses,
    "knapsack, single swaps": by_single_swaps,
}
WITHOUT_CHANCE = ("knapsack, calibration losses", "knapsack, single swaps")


def carried_out(strategy: Strategy, truth: Truth, budget: int, seed: int) -> Tally:
    """What a strategy has found when all is found or the budget is spent."""
    tally = Tally(truth, budget)
    with suppress(Over):
        strategy(tally, seed)
    return tally


def median(counts: list[float]) -> float:
    """The median, where what was not found counts as infinitely late."""
    return float(np.sort(counts)[(len(counts) - 1) // 2])
