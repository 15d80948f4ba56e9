"""The unobserved candidate of the highest score: by looking at all, or by local search.

Legend: `M` candidates, `N` stages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain, combinations
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from tocsr.seeding import numpy_rng

if TYPE_CHECKING:
    from tocsr.search.space import Candidate, SearchSpace

Score: TypeAlias = Callable[[Tensor], Tensor]  # candidates (M, N) -> (M,), -inf where of no use
NUM_STARTS = 16  # of a local search, of each kind
_NUM_PAIRED = 4  # local maxima whose neighbours at two stages are looked at too


def best_unobserved(
    space: SearchSpace,
    score: Score,
    observed: Collection[Candidate],
    promising: Sequence[Candidate],
    seed: int,
) -> Candidate | None:
    """The candidate of the highest score that is not observed.

    Of a space that can be enumerated the highest of all, otherwise what `local_maximum` finds.

    Args:
        space: The candidates.
        score: Higher is better; -inf for a candidate that must not be taken.
        observed: Candidates that must not be taken.
        promising: Candidates to start a local search from, observed or not.
        seed: Of a local search.

    Returns:
        None where every candidate that was looked at is observed or of score -inf.
    """
    if not space.can_be_enumerated:
        return local_maximum(space, score, observed, promising, seed)
    candidates = space.all_candidates()
    values = score(candidates)
    radix = torch.tensor([len(table) for table in space.costs])
    digits = radix.flip(0).cumprod(0).flip(0) // radix  # a candidate as one whole number
    taken = torch.tensor(list(observed), dtype=torch.int64).reshape(-1, len(radix))
    values[torch.isin(candidates @ digits, taken @ digits)] = -torch.inf
    best = int(values.argmax())
    return tuple(candidates[best].tolist()) if values[best] > -torch.inf else None


def local_maximum(
    space: SearchSpace,
    score: Score,
    observed: Collection[Candidate],
    promising: Sequence[Candidate],
    seed: int,
) -> Candidate | None:
    """The best that discrete local search from several starts finds.

    The starts: the promising candidates, random ones, and the cheapest, which satisfies any bound
    on the cost that some candidate satisfies. From each, as long as that helps, one stage is
    changed for the better. The best places so reached are then left for the best candidate that
    differs in two stages, and so on until no such change helps. Arguments as of `best_unobserved`.
    """
    climb = _Climb(space, score, frozenset(observed))
    reached = climb.tops(_starts(space, promising, seed), num_changes=1)
    best = climb.tops(reached[:_NUM_PAIRED], num_changes=2)[0]
    return best if climb.values[best] > -math.inf else None


def _starts(space: SearchSpace, promising: Sequence[Candidate], seed: int) -> list[Candidate]:
    rng = numpy_rng(seed, "local search")
    columns = [rng.choice(allowed, NUM_STARTS).tolist() for allowed in space.choices]
    starts = [*promising, *zip(*columns, strict=True), space.cheapest]
    return list(dict.fromkeys(start for start in starts if start in space))


class _Climb:
    """Steepest ascent over the choices; no score is asked for twice."""

    def __init__(self, space: SearchSpace, score: Score, observed: frozenset[Candidate]) -> None:
        self.space = space
        self.score = score
        self.values: dict[Candidate, float] = dict.fromkeys(observed, -math.inf)

    def _ask(self, candidates: Iterable[Candidate]) -> None:
        new = [a for a in dict.fromkeys(candidates) if a not in self.values]
        if new:
            self.values.update(zip(new, self.score(torch.tensor(new)).tolist(), strict=True))

    def _around(self, candidate: Candidate, num_changes: int) -> list[Candidate]:
        """The candidate itself and those that differ from it in at most `num_changes` stages."""
        found = [candidate]
        for num in range(1, num_changes + 1):
            for stages in combinations(range(len(candidate)), num):
                changed = [candidate]
                for stage in stages:
                    others = [k for k in self.space.choices[stage] if k != candidate[stage]]
                    changed = [(*a[:stage], k, *a[stage + 1 :]) for a in changed for k in others]
                found += changed
        return found

    def tops(self, candidates: Sequence[Candidate], num_changes: int) -> list[Candidate]:
        """Where the candidates climb to, the highest first: until no such change helps.

        Of equal scores the one that comes first stays first, a candidate before its neighbours.
        """
        while True:
            around = [self._around(candidate, num_changes) for candidate in candidates]
            self._ask(chain.from_iterable(around))
            higher = [max(near, key=self.values.__getitem__) for near in around]
            if higher == candidates:
                return sorted(candidates, key=self.values.__getitem__, reverse=True)
            candidates = list(dict.fromkeys(higher))
