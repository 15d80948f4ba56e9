"""Where a search starts, and what calibration alone would choose.

Legend: `M` candidates, `N` stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tocsr.search.space import sums_of
from tocsr.seeding import numpy_rng

if TYPE_CHECKING:
    from tocsr.search.space import Candidate, SearchSpace

_MAX_FRONT = 5000  # partial candidates that the knapsack carries from stage to stage


def knapsack_front(space: SearchSpace) -> list[Candidate]:
    """What ranking by calibration alone would choose, cheapest first.

    If every surrogate harmed the whole as much as it harms its own stage, the gap would be the sum
    of the proxies, and the least such sum within a cost a knapsack with one item per stage. These
    are its solutions for every cost: the candidates whose (cost, sum of proxies) no other one
    beats, found stage by stage, since a part of such a candidate is not beaten either. Not more
    than `_MAX_FRONT` parts are carried on, spread evenly in order of cost; so far it is exact.

    Args:
        space: With proxies.
    """
    parts = torch.empty(1, 0, dtype=torch.int64)
    for stage, allowed in enumerate(space.choices):
        options = torch.tensor(allowed)
        grown = parts.repeat_interleave(len(options), 0)
        parts = torch.cat([grown, options.repeat(len(parts)).unsqueeze(1)], 1)
        costs = sums_of(space.costs[: stage + 1], parts)
        parts = parts[_not_beaten(costs, sums_of(space.proxies[: stage + 1], parts))]
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


def initial_candidates(space: SearchSpace, num: int, seed: int) -> list[Candidate]:
    """Where a search starts: `num` different candidates, or all of a smaller space.

    First the two ends: each stage's first variant (the all-teacher candidate of gap 0, unless the
    choices leave it out) and the cheapest. Half of the rest are solutions of the knapsack over the
    proxies, evenly spread from cheap to costly; they are left out where there are no proxies. The
    others are a Latin design: within it every stage shows each of its variants equally often, in
    random order.

    Args:
        space: The candidates.
        num: At least 1.
        seed: Of the Latin design.
    """
    found = dict.fromkeys([space.first, space.cheapest][:num])
    if space.proxies and num > len(found):
        front = [solution for solution in knapsack_front(space) if solution not in found]
        chosen = evenly(len(front), (num - len(found)) // 2)
        found.update(dict.fromkeys(front[place] for place in chosen.tolist()))
    rng = numpy_rng(seed, "initial candidates")
    while (missing := min(num, space.num_candidates) - len(found)) > 0:
        columns = []
        for allowed in space.choices:
            variants = rng.permutation(allowed)
            repeats = -(-missing // len(variants))
            columns.append(rng.permutation(variants.repeat(repeats)[:missing]).tolist())
        found.update(dict.fromkeys(zip(*columns, strict=True)))
    return list(found)
