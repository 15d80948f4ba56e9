"""Architectures of a library by cost alone: the smallest, the largest, those near a budget.

Costs add up over the stages, so the best of millions is found without looking at each: every sum
over the first stages meets the sorted sums over the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from tocsr.models.cost import Cost
    from tocsr.models.library import LibraryCosts

NEAR = 0.95  # of the budget: from here on an architecture counts as near it


@dataclass(frozen=True)
class Architecture:
    """One candidate and the cost of its whole U-Net.

    Args:
        choice: Stage -> variant, the decision vector a.
        cost: Parameters and multiply-accumulates.
    """

    choice: dict[str, str]
    cost: Cost


def _made(costs: LibraryCosts, choice: dict[str, str]) -> Architecture:
    return Architecture(choice, costs.of(choice))


def _by_stage(
    costs: LibraryCosts, pick: Callable[[Iterable[Cost], Callable[[Cost], tuple[int, int]]], Cost]
) -> Architecture:
    choice = {
        stage: pick(rows.values(), lambda cost: (cost.params, cost.macs)).part
        for stage, rows in costs.stages.items()
    }
    return _made(costs, choice)


def smallest(costs: LibraryCosts) -> Architecture:
    """The architecture of fewest parameters, of equal ones that of fewest GMACs."""
    return _by_stage(costs, lambda rows, key: min(rows, key=key))


def largest(costs: LibraryCosts) -> Architecture:
    """The architecture of most parameters."""
    return _by_stage(costs, lambda rows, key: max(rows, key=key))


class _Sums:
    """Every choice for some of the stages, sorted by parameters."""

    def __init__(self, stages: dict[str, dict[str, Cost]], start: Cost | None = None) -> None:
        self.stages = stages
        params = np.array([start.params if start else 0], np.int64)
        macs = np.array([start.macs if start else 0], np.int64)
        for rows in stages.values():
            costs = list(rows.values())
            params = np.add.outer(params, [cost.params for cost in costs]).ravel()
            macs = np.add.outer(macs, [cost.macs for cost in costs]).ravel()
        self.order = np.argsort(params, kind="stable")
        self.params, self.macs = params[self.order], macs[self.order]

    def choice(self, place: int) -> dict[str, str]:
        """The variants behind one of the sums."""
        shape = [len(rows) for rows in self.stages.values()]
        picked = np.unravel_index(self.order[place], shape)
        return {
            stage: list(rows)[int(k)]
            for (stage, rows), k in zip(self.stages.items(), picked, strict=True)
        }

    def leanest(self, first: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        """The place of fewest GMACs within each range first..stop-1, none of them empty.

        By a table of the best of 1, 2, 4 .. neighbours, two of which cover any range.
        """
        levels = [np.arange(len(self.macs))]
        while (step := 2 ** (len(levels) - 1)) * 2 <= len(self.macs):
            left, right = levels[-1][:-step], levels[-1][step:]
            levels.append(np.where(self.macs[left] <= self.macs[right], left, right))
        found = np.empty_like(first)
        depth = np.log2(stop - first).astype(int)
        for level in np.unique(depth):
            rows = depth == level
            left = levels[level][first[rows]]
            right = levels[level][stop[rows] - 2**level]
            found[rows] = np.where(self.macs[left] <= self.macs[right], left, right)
        return found


def _halves(costs: LibraryCosts) -> tuple[_Sums, _Sums]:
    names = list(costs.stages)
    cut = len(names) // 2
    first, second = (
        {name: costs.stages[name] for name in part} for part in (names[:cut], names[cut:])
    )
    return _Sums(first, costs.rest), _Sums(second)


def fewest_macs(costs: LibraryCosts, least: float, most: float) -> Architecture | None:
    """The architecture of fewest GMACs among those of `least` to `most` parameters, if any."""
    left, right = _halves(costs)
    first = np.searchsorted(right.params, least - left.params, "left")
    stop = np.searchsorted(right.params, most - left.params, "right")
    rows = np.flatnonzero(first < stop)
    if not len(rows):
        return None
    places = right.leanest(first[rows], stop[rows])
    best = int(np.argmin(left.macs[rows] + right.macs[places]))
    return _made(costs, left.choice(int(rows[best])) | right.choice(int(places[best])))


def _most_params(costs: LibraryCosts, budget: int) -> int | None:
    """The largest number of parameters that an architecture has within a budget, if any."""
    left, right = _halves(costs)
    places = np.searchsorted(right.params, budget - left.params, "right") - 1
    rows = places >= 0
    if not rows.any():
        return None
    return int((left.params[rows] + right.params[places[rows]]).max())


def nearest(costs: LibraryCosts, budget: int) -> Architecture | None:
    """The architecture nearest a budget of parameters and not above it; None where all are.

    Among those of equally many parameters it is the one of fewest GMACs.
    """
    params = _most_params(costs, budget)
    return None if params is None else fewest_macs(costs, params, params)


def leanest(costs: LibraryCosts, budget: int) -> Architecture | None:
    """The architecture of fewest GMACs among those near a budget of parameters; None if all exceed.

    Near is from `NEAR` of the budget up to the budget; where there is none, the nearest below.
    """
    params = _most_params(costs, budget)
    return None if params is None else fewest_macs(costs, min(NEAR * budget, params), budget)


def architecture_rows(costs: LibraryCosts, budget: int | None) -> dict[str, str]:
    """What a library holds, for people: how many architectures, and a few of them.

    Args:
        costs: Of its blocks.
        budget: Parameters of the U-Net, for those near it.
    """
    found: dict[str, Architecture | None] = {
        "smallest": smallest(costs),
        "largest": largest(costs),
    }
    if budget is not None:
        found[f"nearest to {budget:,} parameters"] = nearest(costs, budget)
        near = f"{NEAR:.0%} of them or more"
        found[f"fewest GMACs with {near}"] = leanest(costs, budget)
    return {
        "number": f"{costs.num_candidates:,}",
        **{name: _text(one) if one else "none: all are larger" for name, one in found.items()},
    }


def _text(one: Architecture) -> str:
    choice = ", ".join(f"{stage} {name}" for stage, name in one.choice.items())
    return f"{cost_text(one.cost)}: {choice}"


def cost_text(cost: Cost) -> str:
    """Parameters and GMACs, for people."""
    return f"{cost.params:,} parameters, {cost.macs_g:.4g} GMACs"
