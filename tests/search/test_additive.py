from __future__ import annotations

import pytest
from twins import make_twin, one_by_one, start_of

from tocsr.errors import TocsrError
from tocsr.search.additive import AdditiveGap, single_swaps
from tocsr.search.bayesopt import optimize
from tocsr.search.space import SearchSpace


def test_single_swaps_are_the_first_candidate_and_all_that_differ_from_it_in_one_stage():
    space = SearchSpace(((3.0, 2.0, 1.0), (5.0, 4.0)))
    assert single_swaps(space) == [(0, 0), (1, 0), (2, 0), (0, 1)]
    narrowed = SearchSpace(space.costs, choices=((1, 2), (0, 1)))
    assert single_swaps(narrowed) == [(1, 0), (2, 0), (1, 1)]


def test_the_sum_of_a_gap_that_is_a_sum_is_the_gap():
    twin = make_twin(0, (3, 4, 3))
    twin = type(twin)(twin.space, twin.gaps, {})  # no terms of pairs
    candidates = twin.space.all_candidates()
    sums = AdditiveGap.observed(twin.space, start_of(twin)).of(candidates)
    assert sums.tolist() == pytest.approx(twin.all_gaps)


def test_a_swap_that_lessens_the_gap_adds_nothing():
    space = SearchSpace(((2.0, 1.0), (2.0, 1.0)), choices=((0, 1), (0, 1)))
    additive = AdditiveGap.observed(space, {(0, 0): 0.5, (1, 0): 0.25, (0, 1): 0.75})
    assert additive == AdditiveGap(0.5, ((0.0, 0.0), (0.0, 0.25)))
    assert additive.of(space.all_candidates()).tolist() == [0.5, 0.75, 0.5, 0.75]


def test_a_swap_that_was_not_observed_is_named():
    space = SearchSpace(((2.0, 1.0), (2.0, 1.0)))
    with pytest.raises(TocsrError, match=r"2 are missing, first \(1, 0\)"):
        AdditiveGap.observed(space, {(0, 0): 0.0})


def test_where_gaps_add_up_the_first_proposal_is_the_optimum():
    twin = make_twin(0, (4, 4, 4, 4))
    twin = type(twin)(twin.space, twin.gaps, {})
    tolerance = twin.tolerance(0.1)
    asked = []
    optimize(
        twin.space, one_by_one(lambda a: asked.append(a) or twin.gap(a)), [tolerance], 1, seed=0
    )
    assert len(asked) == len(single_swaps(twin.space)) + 1
    assert twin.space.cost(asked[-1]) == twin.optimum(tolerance)
