from __future__ import annotations

import pytest
from twins import make_twin

from tocsr.search import designs
from tocsr.search.designs import evenly, initial_candidates, knapsack_front
from tocsr.search.space import SearchSpace, pareto_front, sums_of


def test_the_start_design_holds_both_ends_and_shows_every_variant_equally_often():
    space = SearchSpace(make_twin(0, (4, 4, 4)).space.costs)
    design = initial_candidates(space, 10, seed=3)
    assert design[:2] == [(0, 0, 0), (3, 3, 3)]  # costs fall with the index
    assert len(set(design)) == 10
    assert design == initial_candidates(space, 10, seed=3)
    assert design != initial_candidates(space, 10, seed=4)
    for column in zip(*design[2:], strict=True):
        assert sorted(column) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(set(initial_candidates(space, 1000, seed=0))) == space.num_candidates == 64


def test_half_of_the_start_design_is_what_calibration_would_choose():
    space = make_twin(0).space
    design, front = initial_candidates(space, 22, seed=0), set(knapsack_front(space))
    assert len(front) > 40
    assert len(set(design)) == 22
    assert front.issuperset(design[:12])
    costs = [space.cost(candidate) for candidate in design[2:12]]
    assert costs == sorted(costs)
    assert costs[0] < space.cost(space.first) / 3  # from cheap
    assert costs[-1] > space.cost(space.first) * 2 / 3  # to costly
    for column, table in zip(zip(*design[12:], strict=True), space.costs, strict=True):
        assert set(column) == set(range(len(table)))


@pytest.mark.parametrize("num", [1, 2, 3, 5, 100])
def test_a_start_design_is_as_large_as_asked_or_the_whole_space(num):
    space = make_twin(0, (2, 3, 2)).space
    assert len(set(initial_candidates(space, num, seed=0))) == min(num, 12)


@pytest.mark.parametrize("seed", range(5))
def test_the_knapsack_over_the_proxies_is_solved_exactly(seed):
    space = make_twin(seed, (4, 3, 5, 4)).space
    candidates = space.all_candidates()
    losses = sums_of(space.proxies, candidates).tolist()
    truth = pareto_front(space, dict(zip(map(tuple, candidates.tolist()), losses, strict=True)))
    assert knapsack_front(space) == truth


def test_the_knapsack_takes_only_what_is_allowed():
    twin = make_twin(0, (4, 4, 4))
    space = SearchSpace(twin.space.costs, ((1, 2), (0, 3), (2,)), twin.space.proxies)
    assert all(candidate in space for candidate in knapsack_front(space))


def test_a_knapsack_too_large_is_thinned_and_keeps_its_ends(monkeypatch):
    space = make_twin(0).space
    whole = knapsack_front(space)
    monkeypatch.setattr(designs, "_MAX_FRONT", 30)
    thinned = knapsack_front(space)
    assert len(thinned) <= 30 < len(whole)
    assert (thinned[0], thinned[-1]) == (whole[0], whole[-1]) == (space.cheapest, space.first)


def test_places_are_spread_evenly_and_hold_both_ends():
    assert evenly(9, 3).tolist() == [0, 4, 8]
    assert evenly(3, 5).tolist() == [0, 1, 2]
    assert evenly(0, 5).tolist() == []
