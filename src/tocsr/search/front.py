"""The whole front of cost and gap at once, by expected hypervolume improvement (Eq. 12).

Minimised are the cost P(a), which is known, and sqrt(F(a)), which a Gaussian process models.

Legend: `M` candidates, `N` stages, `S` steps of the front.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tocsr.search.additive import single_swaps
from tocsr.search.bayesopt import Observer, propose_one_by_one, require_parallel
from tocsr.search.designs import evenly
from tocsr.search.maximize import NUM_STARTS
from tocsr.search.space import Candidate, Observations, SearchSpace, pareto_front
from tocsr.seeding import derive_seed

if TYPE_CHECKING:
    from tocsr.search.bayesopt import Evaluate
    from tocsr.search.gp import RootGap
    from tocsr.search.maximize import Score


@dataclass(frozen=True)
class Staircase:
    """The lower edge of what observations leave undominated, as a function of the cost.

    Step s spans the costs from `starts[s]` to `starts[s + 1]`; there the least sqrt(gap) that any
    observed candidate of no higher cost has is `levels[s]`. The first step is where no observed
    candidate is cheap enough; its level is the reference.

    Args:
        starts: Shape (S + 1,), ascending; the first is -inf, the last the reference cost.
        levels: Shape (S,), descending; the first is the reference root.
    """

    starts: Tensor
    levels: Tensor


def reference_point(space: SearchSpace, observations: Observations) -> tuple[float, float]:
    """The corner that hypervolume is measured from, (cost, sqrt(gap)).

    The cost of the most expensive candidate, which is the teacher's, and the largest root gap
    observed, which is nearly always the cheapest candidate's: a search observes both ends first. A
    candidate beyond the corner adds nothing.
    """
    dearest = tuple(
        max(allowed, key=lambda k: table[k])
        for table, allowed in zip(space.costs, space.choices, strict=True)
    )
    return space.cost(dearest), math.sqrt(max(observations.values()))


def staircase(space: SearchSpace, observations: Observations) -> Staircase:
    """What the observed candidates dominate, up to the reference point."""
    cost, root = reference_point(space, observations)
    front = [a for a in pareto_front(space, observations) if space.cost(a) < cost]
    starts = [-math.inf, *(space.cost(a) for a in front), cost]
    levels = [root, *(math.sqrt(observations[a]) for a in front)]
    return Staircase(
        torch.tensor(starts, dtype=torch.float64), torch.tensor(levels, dtype=torch.float64)
    )


def expected_improvement(level: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """E[max(level - Y, 0)] of a Gaussian Y (Jones et al. 1998).

    Args:
        level: Broadcasts with the others.
        mean: Of Y.
        std: Of Y, above 0.
    """
    z = (level - mean) / std
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return (std * (density + z * torch.special.log_ndtr(z).exp())).clamp_min(0)


def log_hypervolume_improvement(
    space: SearchSpace, process: RootGap, candidates: Tensor, stairs: Staircase
) -> Tensor:
    """The logarithm of E[growth of the dominated hypervolume], in closed form.

    A candidate of cost P(a) and root gap y dominates, of the step s, the width of the step at
    higher costs than P(a) times max(level_s - y, 0). The width is known because the cost is, so
    the expectation is a sum over the steps of widths times expected improvements in one dimension.
    This is the two-dimensional expected hypervolume improvement summed over strips (Emmerich et
    al. 2016; Yang et al. 2019) where one of the two objectives has no spread. No root is negative,
    so what the Gaussian puts below 0 counts as 0: `max(level - max(y, 0), 0)` is
    `max(level - y, 0) - max(0 - y, 0)`.

    Args:
        space: Gives the costs.
        process: Of sqrt(gap).
        candidates: Shape (M, N), int64.
        stairs: What is dominated so far.

    Returns:
        Shape (M,), float64; -inf where nothing can be gained.
    """
    mean, std = process.predict(candidates)
    costs = space.costs_of(candidates)
    below_zero = expected_improvement(torch.zeros_like(mean), mean, std)
    total = torch.zeros_like(mean)
    for step, level in enumerate(stairs.levels):
        start, end = stairs.starts[step], stairs.starts[step + 1]
        width = (end - costs.clamp_min(start)).clamp_min(0)
        gain = expected_improvement(level, mean, std) - below_zero
        total += width * gain.clamp_min(0)
    return total.log()


def propose_front(
    space: SearchSpace, observations: Observations, seed: int, num: int = 1
) -> list[Candidate]:
    """The candidates to observe next for the front, a function of the arguments alone.

    Args:
        space: The candidates and their costs.
        observations: With those of all single swaps.
        seed: Of the fit's restarts and of a local search.
        num: How many to propose together; fewer where not so many can add to the front.
    """
    stairs = staircase(space, observations)

    def score_by(process: RootGap) -> Score:
        return partial(log_hypervolume_improvement, space, process, stairs=stairs)

    front = pareto_front(space, observations)
    promising = [front[place] for place in evenly(len(front), NUM_STARTS).tolist()]
    return propose_one_by_one(space, observations, score_by, promising, seed, num)


@dataclass(frozen=True)
class FrontResult:
    """What a search for the front found.

    Args:
        observations: Gap of every candidate, in the order of observing.
        front: Those that no other one beats in cost and gap, cheapest first.
    """

    observations: dict[Candidate, float]
    front: list[Candidate]


def optimize_front(
    space: SearchSpace,
    evaluate: Evaluate,
    num_iterations: int,
    seed: int,
    observations: Observations | None = None,
    num_parallel: int = 1,
) -> FrontResult:
    """One optimisation of cost and gap together (Eq. 12).

    Not in the paper: it asks for one optimisation per tolerance (Eq. 15), which
    `tocsr.search.bayesopt.optimize` makes. Here no tolerance need be known beforehand. Killed, it
    goes on in the same way.

    Args:
        space: The candidates and their costs.
        evaluate: As of `tocsr.search.bayesopt.optimize`.
        num_iterations: Proposals; fewer when none can add to the front.
        seed: Of the proposals.
        observations: Gaps known from before.
        num_parallel: Proposals in a batch.

    Raises:
        TocsrError: A gap is negative or not finite, or nothing is to be observed.
    """
    require_parallel(num_parallel)
    observer = Observer(space, evaluate, observations)
    observer.observe([*single_swaps(space), space.cheapest])  # both ends, for `reference_point`
    for done in range(0, num_iterations, num_parallel):
        num = min(num_parallel, num_iterations - done)
        proposals = propose_front(space, observer.seen, derive_seed(seed, "propose", done), num)
        if not proposals:
            break
        observer.observe(proposals)
    seen = observer.everything()
    return FrontResult(seen, pareto_front(space, seen))
