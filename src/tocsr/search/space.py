"""The architectures to choose from, what they cost, and which of those observed are best.

A candidate a = (a_1 .. a_N) picks one variant per stage (Eq. 9). Its cost P(a) is a sum of table
entries, known exactly (Eq. 10). Its gap F(a) (Eq. 11) is known where it was observed. Feasible
means `gap <= tolerance`.

Legend: `M` candidates, `N` stages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from tocsr.errors import TocsrError

Candidate: TypeAlias = tuple[int, ...]
Observations: TypeAlias = Mapping[Candidate, float]  # candidate -> gap, in the order of observing
MAX_ENUMERATED = 1_000_000  # candidates of a space that are still all looked at


@dataclass(frozen=True)
class SearchSpace:
    """The architectures to choose from (Eq. 9) and what each costs (Eq. 10).

    Args:
        costs: `costs[i][k]` is the cost of variant k in stage i, in any unit (parameters, GMACs,
            milliseconds).
        choices: The variants each stage may take, ascending; empty means all of them.

    Raises:
        TocsrError: A cost is negative or not finite, or the choices do not fit the costs.
    """

    costs: tuple[tuple[float, ...], ...]
    choices: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.choices:
            object.__setattr__(self, "choices", tuple(tuple(range(len(t))) for t in self.costs))
        if not self.costs or len(self.choices) != len(self.costs):
            raise TocsrError(
                "a search space has choices for each of its stages, at least one, "
                f"got {len(self.choices)} for {len(self.costs)} stages"
            )
        for stage, (table, allowed) in enumerate(zip(self.costs, self.choices, strict=True)):
            if not all(math.isfinite(cost) and cost >= 0 for cost in table):
                raise TocsrError(f"costs must be finite and at least 0, stage {stage} has {table}")
            if not allowed or list(allowed) != [k for k in range(len(table)) if k in allowed]:
                raise TocsrError(
                    f"choices of stage {stage} must be some of 0..{len(table) - 1}, each once "
                    f"and ascending, got {allowed}"
                )

    def __contains__(self, candidate: Candidate) -> bool:
        return len(candidate) == len(self.choices) and all(
            choice in allowed for choice, allowed in zip(candidate, self.choices, strict=True)
        )

    @property
    def num_candidates(self) -> int:
        """How many candidates there are."""
        return math.prod(len(allowed) for allowed in self.choices)

    @property
    def can_be_enumerated(self) -> bool:
        """Whether they are few enough to look at each of them."""
        return self.num_candidates <= MAX_ENUMERATED

    @property
    def first(self) -> Candidate:
        """Each stage's first allowed variant: the teacher, unless the choices leave it out."""
        return tuple(allowed[0] for allowed in self.choices)

    @property
    def cheapest(self) -> Candidate:
        """Each stage's variant of lowest cost."""
        return tuple(
            min(allowed, key=lambda k: (table[k], k))
            for table, allowed in zip(self.costs, self.choices, strict=True)
        )

    def all_candidates(self) -> Tensor:
        """Every candidate once.

        Returns:
            Shape (M, N), int64.

        Raises:
            TocsrError: They are too many to enumerate.
        """
        if not self.can_be_enumerated:
            raise TocsrError(
                f"only a search space of at most {MAX_ENUMERATED:,} candidates is enumerated, "
                f"this one has {self.num_candidates:,}",
                "allow fewer variants per stage, first those that cost more and lose more",
            )
        columns = [torch.tensor(allowed) for allowed in self.choices]
        return torch.cartesian_prod(*columns).reshape(-1, len(columns))  # one stage: (M,)

    def costs_of(self, candidates: Tensor) -> Tensor:
        """P(a) = sum_i params(B_i^{a_i}) (Eq. 10).

        The stages are added in order, so a candidate costs the same to the last bit in any batch.

        Args:
            candidates: Shape (M, N), int64.

        Returns:
            Shape (M,), float64.
        """
        return sums_of(self.costs, candidates)

    def cost(self, candidate: Candidate) -> float:
        """P(a) of one candidate (Eq. 10)."""
        return float(self.costs_of(torch.tensor([candidate]))[0])


def sums_of(tables: tuple[tuple[float, ...], ...], candidates: Tensor) -> Tensor:
    """The sum over the stages of each candidate's table entries, added in order.

    Args:
        tables: `tables[i][k]` is the entry of variant k in stage i.
        candidates: Shape (M, N), int64.

    Returns:
        Shape (M,), float64.
    """
    total = torch.zeros(len(candidates), dtype=torch.float64)
    for table, choice in zip(tables, candidates.T, strict=True):
        total += torch.tensor(table, dtype=torch.float64)[choice]
    return total


def cheapest_feasible(
    space: SearchSpace, observations: Observations, tolerance: float
) -> Candidate | None:
    """The observed candidate of lowest cost with gap <= tolerance (Eqs. 13, 14), if any.

    Of equal costs the smaller gap wins.
    """
    feasible = [candidate for candidate, gap in observations.items() if gap <= tolerance]
    return min(feasible, key=lambda a: (space.cost(a), observations[a], a), default=None)


def pareto_front(space: SearchSpace, observations: Observations) -> list[Candidate]:
    """The observed candidates that no other one beats in cost and gap (Eq. 12), cheapest first.

    Beaten means: another one costs no more and its gap is no larger, and one of the two is less.
    Of candidates equal in both the first in order stands for all.
    """
    front: list[Candidate] = []
    for candidate in sorted(observations, key=lambda a: (space.cost(a), observations[a], a)):
        if not front or observations[candidate] < observations[front[-1]]:
            front.append(candidate)
    return front
