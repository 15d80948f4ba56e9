from __future__ import annotations

import pytest
from twins import make_twin, start_of

from tocsr.search import designs
from tocsr.search.additive import AdditiveGap
from tocsr.search.designs import evenly, knapsack_front, spread_solutions
from tocsr.search.space import SearchSpace, pareto_front, sums_of


def losses_of(twin):
    return AdditiveGap.observed(twin.space, start_of(twin)).added


@pytest.mark.parametrize("seed", range(5))
def test_the_knapsack_is_solved_exactly(seed):
    twin = make_twin(seed, (4, 3, 5, 4))
    candidates, losses = twin.space.all_candidates(), losses_of(twin)
    sums = dict(
        zip(map(tuple, candidates.tolist()), sums_of(losses, candidates).tolist(), strict=True)
    )
    assert knapsack_front(twin.space, losses) == pareto_front(twin.space, sums)


def test_the_knapsack_takes_only_what_is_allowed():
    twin = make_twin(0, (4, 4, 4))
    space = SearchSpace(twin.space.costs, ((1, 2), (0, 3), (2,)))
    assert all(candidate in space for candidate in knapsack_front(space, losses_of(twin)))


def test_a_knapsack_too_large_is_thinned_and_keeps_its_ends(monkeypatch):
    twin = make_twin(0)
    whole = knapsack_front(twin.space, losses_of(twin))
    monkeypatch.setattr(designs, "_MAX_FRONT", 30)
    thinned = knapsack_front(twin.space, losses_of(twin))
    assert len(thinned) <= 30 < len(whole)
    ends = (twin.space.cheapest, twin.space.first)
    assert (thinned[0], thinned[-1]) == (whole[0], whole[-1]) == ends


def test_solutions_are_spread_from_cheap_to_costly():
    twin = make_twin(0)
    observations = start_of(twin)
    found = spread_solutions(twin.space, observations, 5)
    assert (found[0], found[-1]) == (twin.space.cheapest, twin.space.first)
    assert len(set(found)) == 5
    costs = [twin.space.cost(candidate) for candidate in found]
    assert costs == sorted(costs)


def test_places_are_spread_evenly_and_hold_both_ends():
    assert evenly(9, 3).tolist() == [0, 4, 8]
    assert evenly(3, 5).tolist() == [0, 1, 2]
    assert evenly(0, 5).tolist() == []
