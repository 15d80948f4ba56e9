from __future__ import annotations

import math

import pytest
from twins import make_twin

from tocsr.errors import TocsrError
from tocsr.search.space import MAX_ENUMERATED, SearchSpace, cheapest_feasible, pareto_front


def test_costs_are_sums_of_the_table_alone_and_in_a_batch():
    space = SearchSpace(((10.0, 1.0), (0.1, 0.2, 0.3)), choices=((1,), (0, 2)))
    assert space.all_candidates().tolist() == [[1, 0], [1, 2]]
    assert space.costs_of(space.all_candidates()).tolist() == [1.0 + 0.1, 1.0 + 0.3]
    assert space.cost((1, 2)) == 1.0 + 0.3
    assert (1, 2) in space
    assert (0, 2) not in space
    assert (1, 0, 0) not in space


def test_the_ends_of_a_space_are_its_first_variants_and_its_cheapest():
    space = SearchSpace(((3.0, 1.0, 2.0), (5.0, 5.0)), choices=((0, 1, 2), (0, 1)))
    assert (space.first, space.cheapest) == ((0, 0), (1, 0))
    without_teacher = SearchSpace(space.costs, choices=((1, 2), (1,)))
    assert (without_teacher.first, without_teacher.cheapest) == ((1, 1), (1, 1))


def test_a_gap_equal_to_the_tolerance_is_feasible_and_ties_go_to_the_smaller_gap():
    space = SearchSpace(((2.0, 1.0, 1.0),))
    gaps = {(0,): 0.0, (1,): 0.5, (2,): 0.25}
    assert cheapest_feasible(space, gaps, 0.5) == (2,)
    assert cheapest_feasible(space, gaps, 0.25) == (2,)
    assert cheapest_feasible(space, gaps, 0.2) == (0,)
    assert cheapest_feasible(space, {(1,): 0.5}, 0.2) is None


def test_the_front_holds_whom_no_other_candidate_beats():
    space = SearchSpace(((4.0, 3.0, 3.0, 2.0, 1.0, 1.0),))
    gaps = {(0,): 0.1, (1,): 0.1, (2,): 0.3, (3,): 0.2, (4,): 0.5, (5,): 0.5}
    assert pareto_front(space, gaps) == [(4,), (3,), (1,)]
    assert pareto_front(space, {}) == []


def test_the_front_holds_the_winner_of_every_tolerance():
    twin = make_twin(0, (3, 4, 3))
    gaps = dict(zip(map(tuple, twin.space.all_candidates().tolist()), twin.all_gaps, strict=True))
    front = pareto_front(twin.space, gaps)
    winners = [cheapest_feasible(twin.space, gaps, gap) for gap in sorted(gaps.values())]
    assert front == list(dict.fromkeys(reversed(winners)))


def test_a_space_too_large_is_not_enumerated():
    space = SearchSpace((tuple(map(float, range(9))),) * 7)
    assert space.num_candidates == 4_782_969 > MAX_ENUMERATED
    assert not space.can_be_enumerated
    with pytest.raises(TocsrError, match=r"at most 1,000,000 .* has 4,782,969; allow fewer"):
        space.all_candidates()


@pytest.mark.parametrize(
    ("costs", "choices", "message"),
    [
        (((1.0, math.inf),), (), "costs must be finite and at least 0, stage 0"),
        (((1.0, -1.0),), (), "costs must be finite and at least 0, stage 0"),
        (((1.0,),), ((0,), (0,)), "got 2 for 1 stages"),
        (((1.0, 2.0),), ((0, 2),), r"stage 0 must be some of 0\.\.1"),
        (((1.0, 2.0),), ((1, 0),), "ascending"),
        (((1.0, 2.0),), ((),), r"stage 0 must be some of 0\.\.1"),
        ((), (), "at least one"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(costs, choices, message):
    with pytest.raises(TocsrError, match=message):
        SearchSpace(costs, choices)
