"""What the gaps of single swaps would choose: where a search starts once it has them.

Legend: `M` candidates, `N` stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from tocsr.search.additive import AdditiveGap
from tocsr.search.space import sums_of

if TYPE_CHECKING:
    from tocsr.search.space import Candidate, Observations, SearchSpace

Losses: TypeAlias = tuple[tuple[float, ...], ...]  # by stage and variant

_MAX_FRONT = 5000  # partial candidates that the knapsack carries from stage to stage


def knapsack_front(space: SearchSpace, losses: Losses) -> list[Candidate]:
    """The candidates whose (cost, sum of losses) no other one beats, cheapest first.

    For every cost the least sum: a knapsack with one item per stage, solved stage by stage, since a
    part of such a candidate is not beaten either. Not more than `_MAX_FRONT` parts are carried on,
    spread evenly in order of cost; so far it is exact.

    Args:
        space: The candidates and their costs.
        losses: Of each variant of each stage, in any unit.
    """
    parts = torch.empty(1, 0, dtype=torch.int64)
    for stage, allowed in enumerate(space.choices):
        options = torch.tensor(allowed)
        grown = parts.repeat_interleave(len(options), 0)
        parts = torch.cat([grown, options.repeat(len(parts)).unsqueeze(1)], 1)
        costs = sums_of(space.costs[: stage + 1], parts)
        parts = parts[_not_beaten(costs, sums_of(losses[: stage + 1], parts))]
        parts = parts[evenly(len(parts), _MAX_FRONT)]
    return [tuple(part) for part in parts.tolist()]


def _not_beaten(costs: Tensor, losses: Tensor) -> Tensor:
    """Rows that no other row beats in both, in order of cost; of equal rows the first."""
    by_loss = losses.argsort(stable=True)
    order = by_loss[costs[by_loss].argsort(stable=True)]
    sorted_losses = losses[order]
    before = torch.cat([sorted_losses.new_tensor([torch.inf]), sorted_losses.cummin(0)[0][:-1]])
    return order[sorted_losses < before]


def evenly(length: int, num: int) -> Tensor:
    """Up to `num` places in a list of `length`, both ends among them, evenly spread."""
    return torch.linspace(0, length - 1, min(num, length)).round().long()


def spread_solutions(space: SearchSpace, observations: Observations, num: int) -> list[Candidate]:
    """Up to `num` solutions of the knapsack over single swaps, evenly spread from cheap to costly.

    Args:
        space: The candidates.
        observations: With those of all single swaps.
        num: How many, both ends among them.
    """
    front = knapsack_front(space, AdditiveGap.observed(space, observations).added)
    return [front[place] for place in evenly(len(front), num).tolist()]
