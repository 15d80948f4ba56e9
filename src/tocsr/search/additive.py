"""The gap as the sum of what each choice does alone.

Not in the paper. The gap of a candidate is nearly the teacher's and, stage by stage, what
exchanging this one block of the teacher adds: over 16,384 architectures the two rank alike by
0.997, while the calibration losses (Eq. 8) rank by 0.75 (docs/results/search.md). So a search first
observes the single swaps, and what is left to learn is by how much their sum is wrong.

Legend: `M` candidates, `N` stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tocsr.errors import TocsrError
from tocsr.search.space import sums_of

if TYPE_CHECKING:
    from torch import Tensor

    from tocsr.search.space import Candidate, Observations, SearchSpace


def swapped(space: SearchSpace, stage: int, variant: int) -> Candidate:
    """The space's first candidate but for one stage."""
    return (*space.first[:stage], variant, *space.first[stage + 1 :])


def single_swaps(space: SearchSpace) -> list[Candidate]:
    """The first candidate, the teacher unless the choices leave it out, then each single swap."""
    others = [
        swapped(space, stage, variant)
        for stage, allowed in enumerate(space.choices)
        for variant in allowed[1:]
    ]
    return [space.first, *others]


@dataclass(frozen=True)
class AdditiveGap:
    """S(a) = F(first) + sum_i max(F(first with a_i) - F(first), 0).

    Args:
        base: F(first).
        added: `added[i][k]` is what variant k of stage i adds alone, at least 0; 0 for a variant
            that the choices leave out.
    """

    base: float
    added: tuple[tuple[float, ...], ...]

    @classmethod
    def observed(cls, space: SearchSpace, observations: Observations) -> AdditiveGap:
        """From the gaps of all single swaps.

        Raises:
            TocsrError: One of them was not observed.
        """
        missing = [a for a in single_swaps(space) if a not in observations]
        if missing:
            raise TocsrError(
                "proposing needs the gap of every single swap of the first candidate, "
                f"{len(missing)} are missing, first {missing[0]}"
            )
        base = observations[space.first]
        added = tuple(
            tuple(
                max(observations[swapped(space, stage, k)] - base, 0.0) if k in allowed else 0.0
                for k in range(len(table))
            )
            for stage, (table, allowed) in enumerate(zip(space.costs, space.choices, strict=True))
        )
        return cls(base, added)

    def of(self, candidates: Tensor) -> Tensor:
        """S(a) of candidates (M, N), int64, as (M,), float64."""
        return self.base + sums_of(self.added, candidates)
