"""Synthetic searches whose gaps cost nothing, so that the truth of a whole space is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from tocsr.search.additive import single_swaps
from tocsr.search.space import Candidate, SearchSpace


@dataclass(frozen=True)
class Twin:
    """A gap per stage and variant, plus terms of pairs of stages."""

    space: SearchSpace
    gaps: list[np.ndarray]
    pairs: dict[tuple[int, int], np.ndarray]

    def gap(self, candidate: Candidate) -> float:
        alone = [float(table[k]) for table, k in zip(self.gaps, candidate, strict=True)]
        both = sum(
            table[candidate[i], candidate[j]] * math.sqrt(alone[i] * alone[j])
            for (i, j), table in self.pairs.items()
        )
        return max(0.0, sum(alone) + float(both))

    def evaluate(self, batch: list[Candidate]) -> Iterator[tuple[Candidate, float]]:
        yield from ((candidate, self.gap(candidate)) for candidate in batch)

    @cached_property
    def all_gaps(self) -> list[float]:
        return [self.gap(tuple(a)) for a in self.space.all_candidates().tolist()]

    def tolerance(self, quantile: float) -> float:
        return float(np.quantile(self.all_gaps, quantile))

    def optimum(self, tolerance: float) -> float:
        feasible = torch.tensor(self.all_gaps) <= tolerance
        return float(self.space.costs_of(self.space.all_candidates())[feasible].min())


def make_twin(seed: int, sizes: tuple[int, ...] = (4, 5, 4, 4, 4, 5, 4)) -> Twin:
    """Costs fall with the variant's number, and gaps grow with what is saved, more or less."""
    rng = np.random.default_rng(seed)
    costs, gaps = [], []
    for size in sizes:
        ratio = np.array([1.0, *sorted(rng.uniform(0.08, 0.8, size - 1), reverse=True)])
        costs.append(tuple((np.exp(rng.normal(1.5, 0.8)) * ratio).tolist()))
        scale = np.exp(rng.normal(-3, 0.8)) * np.exp(rng.normal(0, 0.5, size))
        gaps.append(scale * (1 - ratio) ** 1.5)
    stages = range(len(sizes))
    pairs = [(i, j) for i in stages for j in stages if i < j]
    chosen = [pairs[k] for k in rng.permutation(len(pairs))[:6]]
    tables = {(i, j): rng.uniform(-0.3, 1.2, (sizes[i], sizes[j])) for i, j in chosen}
    return Twin(SearchSpace(tuple(costs)), gaps, tables)


def start_of(twin: Twin, num_more: int = 0) -> dict[Candidate, float]:
    """The gaps of all single swaps, and of candidates drawn with a fixed seed."""
    rng = np.random.default_rng(0)
    columns = [rng.choice(allowed, num_more).tolist() for allowed in twin.space.choices]
    drawn = zip(*columns, strict=True)
    return {a: twin.gap(a) for a in [*single_swaps(twin.space), *drawn]}


Batched = Callable[[list[Candidate]], Iterable[tuple[Candidate, float]]]


def one_by_one(gap: Callable[[Candidate], float]) -> Batched:
    """An `evaluate` that asks for one gap after the other."""
    return lambda batch: ((candidate, gap(candidate)) for candidate in batch)
