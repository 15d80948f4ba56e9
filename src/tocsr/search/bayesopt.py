"""Constrained Bayesian optimisation over decision vectors (Eqs. 9, 10, 13, 14, 15).

The cost P(a) of a candidate is known exactly, so nothing is fitted to it. Its gap F(a) (Eq. 11) is
expensive, exact and at least 0: a Gaussian process stands in for it.

Legend: `M` candidates, `N` stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from tocsr.errors import TocsrError
from tocsr.search.additive import single_swaps
from tocsr.search.designs import spread_solutions
from tocsr.search.gp import RootGap, log_probability, root_gap_process
from tocsr.search.maximize import NUM_STARTS, best_unobserved
from tocsr.search.space import Candidate, Observations, SearchSpace, cheapest_feasible
from tocsr.seeding import derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from tocsr.search.maximize import Score

Evaluate: TypeAlias = Callable[[list[Candidate]], Iterable[tuple[Candidate, float]]]
Choose: TypeAlias = Callable[[SearchSpace, Observations, float, int, int], list[Candidate]]


def acquisition(
    space: SearchSpace,
    process: RootGap,
    candidates: Tensor,
    best_cost: float | None,
    tolerance: float,
) -> Tensor:
    """log(best_cost - P(a)) + log Pr[sqrt(F(a)) <= sqrt(tolerance)] (for Eqs. 13, 14).

    The logarithm of the expected improvement under a constraint (Gardner et al. 2014), whose
    improvement is certain here because the cost is known. Higher is better.

    Args:
        space: Gives the costs.
        process: Of sqrt(gap).
        candidates: Shape (M, N), int64.
        best_cost: Cost of the cheapest feasible candidate known; without one (None) the
            probability alone counts.
        tolerance: The largest gap that is feasible.

    Returns:
        Shape (M,), float64; -inf where a candidate is not cheaper than `best_cost`.
    """
    if best_cost is None:
        return log_probability(process, candidates, tolerance)
    saving = (best_cost - space.costs_of(candidates)).clamp_min(0)
    values, cheaper = saving.log(), saving > 0
    values[cheaper] += log_probability(process, candidates[cheaper], tolerance)
    return values


def propose_one_by_one(
    space: SearchSpace,
    observations: Observations,
    score_by: Callable[[RootGap], Score],
    promising: Sequence[Candidate],
    seed: int,
    num: int,
) -> list[Candidate]:
    """Candidates to observe next, each the unobserved one of the highest score.

    Once the first is chosen, the process believes that it will come out as expected, and gives the
    next score; the hyperparameters stay. What has been observed stays what it is: no candidate
    counts as feasible, or as part of a front, before it is evaluated.

    Args:
        space: The candidates.
        observations: With those of all single swaps.
        score_by: What a process makes of the candidates.
        promising: Where a local search starts, beside solutions of the knapsack.
        seed: Of the fit's restarts and of a local search.
        num: How many; fewer where no more are worth it.
    """
    process = root_gap_process(space, observations, seed)
    starts: list[Candidate] = []
    if not space.can_be_enumerated:
        starts = [*promising, *spread_solutions(space, observations, NUM_STARTS)]
    proposals: list[Candidate] = []
    for index in range(num):
        score, taken = score_by(process), [*observations, *proposals]
        found = best_unobserved(space, score, taken, starts, derive_seed(seed, "start", index))
        if found is None:
            break
        proposals.append(found)
        process = process.believing(found)
    return proposals


def propose(
    space: SearchSpace, observations: Observations, tolerance: float, seed: int, num: int = 1
) -> list[Candidate]:
    """The candidates to observe next, a function of the arguments alone.

    Args:
        space: The candidates and their costs.
        observations: With those of all single swaps.
        tolerance: The largest gap that is feasible.
        seed: Of the fit's restarts and of a local search.
        num: How many to propose together; fewer where not so many are left.

    Returns:
        Unobserved candidates, cheaper than the cheapest feasible one, of the highest acquisition.
    """
    best = cheapest_feasible(space, observations, tolerance)
    best_cost = None if best is None else space.cost(best)
    root = math.sqrt(tolerance)
    nearest = sorted(observations, key=lambda a: (abs(math.sqrt(observations[a]) - root), a))

    def score_by(process: RootGap) -> Score:
        return partial(acquisition, space, process, best_cost=best_cost, tolerance=tolerance)

    return propose_one_by_one(space, observations, score_by, nearest[:NUM_STARTS], seed, num)


class Observer:
    """What a search has seen, in the order in which it asked.

    Args:
        space: The candidates.
        evaluate: Gaps of new candidates, in any order.
        known: Gaps known from before; they are looked up instead of evaluated.
    """

    def __init__(self, space: SearchSpace, evaluate: Evaluate, known: Observations | None) -> None:
        self.evaluate = evaluate
        self.known = {a: gap for a, gap in (known or {}).items() if a in space}
        self.seen: dict[Candidate, float] = {}

    def observe(self, candidates: Iterable[Candidate]) -> None:
        """Sees a batch of candidates, those of them that are new.

        Raises:
            TocsrError: A gap is negative or not finite, or not every candidate got one.
        """
        batch = [a for a in dict.fromkeys(candidates) if a not in self.seen]
        missing = [a for a in batch if a not in self.known]
        gaps = {a: self.known[a] for a in batch if a in self.known}
        for candidate, gap in self.evaluate(missing) if missing else ():
            gaps[candidate] = gap
        for candidate in batch:
            if candidate not in gaps:
                raise TocsrError(f"every candidate asked for must get a gap, {candidate} has none")
            gap = gaps[candidate]
            if not (math.isfinite(gap) and gap >= 0):
                raise TocsrError(f"a gap must be finite and at least 0, {candidate} has {gap}")
            self.seen[candidate] = gap

    def everything(self) -> dict[Candidate, float]:
        """All that was seen, then all else that is known: it was paid for, so it may win."""
        return self.seen | {a: gap for a, gap in self.known.items() if a not in self.seen}


def require_parallel(num_parallel: int) -> None:
    """Raises where a search would propose nothing."""
    if num_parallel < 1:
        raise TocsrError(f"a search proposes at least 1 candidate at a time, got {num_parallel}")


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        observations: Gap of every candidate, in the order of observing.
        winners: Per tolerance the cheapest feasible of all observations, None without one.
    """

    observations: dict[Candidate, float]
    winners: dict[float, Candidate | None]


def optimize(
    space: SearchSpace,
    evaluate: Evaluate,
    tolerances: Sequence[float],
    num_iterations: int,
    seed: int,
    observations: Observations | None = None,
    choose: Choose = propose,
    num_parallel: int = 1,
) -> SearchResult:
    """One optimisation per tolerance, all sharing their observations (Eq. 15).

    They take turns, so that each profits from what the others see, early and late. A killed search
    goes on when given what it had observed: the same sequence is walked again, every process
    fitted to what was known at that moment, and a known gap is looked up instead of evaluated. More
    iterations than before go on likewise, if these were whole batches. In which order a batch's
    gaps come in does not matter.

    Args:
        space: The candidates and their costs.
        evaluate: The gaps F(a) (Eq. 11) of a batch of new candidates, finite, at least 0, in any
            order. Called with the single swaps that are not known, then with each batch of
            proposals.
        tolerances: In the order in which they take turns.
        num_iterations: Proposals per tolerance; fewer when no cheaper candidate is left.
        seed: Of the proposals.
        observations: Gaps known from before.
        choose: What proposes; called with (space, observations, tolerance, seed, num).
        num_parallel: Proposals in a batch, all of one tolerance.

    Raises:
        TocsrError: A tolerance or a gap is negative or not finite, or nothing is to be observed.
    """
    require_parallel(num_parallel)
    if not all(math.isfinite(tolerance) and tolerance >= 0 for tolerance in tolerances):
        raise TocsrError(f"tolerances must be finite and at least 0, got {list(tolerances)}")
    observer = Observer(space, evaluate, observations)
    observer.observe(single_swaps(space))
    searching = dict.fromkeys(range(len(tolerances)))
    for done in range(0, num_iterations, num_parallel):
        num = min(num_parallel, num_iterations - done)
        for run in list(searching):
            turn_seed = derive_seed(seed, "propose", done * len(tolerances) + run)
            proposals = choose(space, observer.seen, tolerances[run], turn_seed, num)
            if not proposals:
                del searching[run]  # what is observed later only makes the cheapest cheaper
            observer.observe(proposals)
    seen = observer.everything()
    return SearchResult(seen, {t: cheapest_feasible(space, seen, t) for t in tolerances})
