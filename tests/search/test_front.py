from __future__ import annotations

import math
import random

import pytest
import torch
from twins import make_twin, one_by_one, start_of

from tocsr.errors import TocsrError
from tocsr.search.front import (
    expected_improvement,
    log_hypervolume_improvement,
    optimize_front,
    propose_front,
    reference_point,
    staircase,
)
from tocsr.search.gp import root_gap_process
from tocsr.search.space import SearchSpace, pareto_front

pytestmark = pytest.mark.usefixtures("one_thread")


def hypervolume(points: list[tuple[float, float]], reference: tuple[float, float]) -> float:
    """The area that points dominate, below and left of the reference, strip by strip."""
    area, level = 0.0, reference[1]
    for cost, root in sorted(points):
        if cost < reference[0] and root < level:
            area += (reference[0] - cost) * (level - root)
            level = root
    return area


def test_the_hypervolume_of_two_steps_is_worked_out_by_hand():
    # below (10, 1): 10 - 4 wide and 1 - 0.5 high, then 10 - 8 wide and 0.5 - 0.2 high
    assert hypervolume([(4, 0.5), (8, 0.2), (9, 0.3)], (10, 1.0)) == pytest.approx(3.6)


def test_the_staircase_is_the_front_up_to_the_corner():
    space = SearchSpace(((10.0, 8.0, 4.0, 9.0, 4.0),))
    gaps = {(0,): 0.0, (1,): 0.04, (2,): 0.25, (3,): 0.09}
    assert reference_point(space, gaps) == (10.0, 0.5)
    stairs = staircase(space, gaps)
    assert stairs.starts.tolist() == [-math.inf, 4.0, 8.0, 10.0]
    assert stairs.levels.tolist() == [0.5, 0.5, 0.2]


def test_the_expected_improvement_is_worked_out_by_hand():
    level, mean, std = (torch.tensor(x, dtype=torch.float64) for x in (1.0, 1.0, 2.0))
    assert float(expected_improvement(level, mean, std)) == pytest.approx(
        2 / math.sqrt(2 * math.pi)
    )
    assert float(expected_improvement(level, mean - 50, std)) == pytest.approx(50.0)
    assert 0 <= float(expected_improvement(level, mean + 50, std)) < 1e-100


def test_the_closed_form_is_what_monte_carlo_estimates():
    twin = make_twin(0, (3, 3, 3))
    space = twin.space
    gaps = start_of(twin, 8)
    process = root_gap_process(space, gaps, seed=0)
    candidates = space.all_candidates()
    closed = log_hypervolume_improvement(space, process, candidates, staircase(space, gaps)).exp()

    reference = reference_point(space, gaps)
    points = [(space.cost(a), math.sqrt(gap)) for a, gap in gaps.items()]
    before = hypervolume(points, reference)
    mean, std = process.predict(candidates)
    draws = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = torch.cat([draws, -draws])  # antithetic
    checked = 0
    for row, candidate in enumerate(map(tuple, candidates.tolist())):
        roots = (mean[row] + std[row] * draws).clamp_min(0).tolist()
        grown = torch.tensor(
            [hypervolume([*points, (space.cost(candidate), y)], reference) - before for y in roots]
        )
        error = float(grown.std()) / math.sqrt(len(grown))
        # 4 standard errors: of 27 estimates one in 16 000 would be beyond
        assert float(closed[row]) == pytest.approx(float(grown.mean()), abs=4 * error + 1e-9)
        checked += float(closed[row]) > 10 * error
    assert checked >= 5  # those whose expectation is told apart from zero


def test_a_certain_process_adds_the_area_itself():
    """With hardly any deviation the expectation is the growth at the mean."""
    twin = make_twin(1, (4, 4, 4))
    space, gaps = (
        twin.space,
        dict(zip(map(tuple, twin.space.all_candidates().tolist()), twin.all_gaps, strict=True)),
    )
    known = {**start_of(twin), space.cheapest: gaps[space.cheapest]}

    class Certain:
        def predict(self, candidates):
            roots = [math.sqrt(gaps[tuple(a)]) for a in candidates.tolist()]
            return torch.tensor(roots, dtype=torch.float64), torch.full((len(roots),), 1e-12)

    reference = reference_point(space, known)
    points = [(space.cost(a), math.sqrt(gap)) for a, gap in known.items()]
    values = log_hypervolume_improvement(
        space, Certain(), space.all_candidates(), staircase(space, known)
    ).exp()
    for value, (candidate, gap) in zip(values.tolist(), gaps.items(), strict=True):
        more = [*points, (space.cost(candidate), math.sqrt(gap))]
        growth = hypervolume(more, reference) - hypervolume(points, reference)
        assert value == pytest.approx(growth, abs=1e-9)


def test_a_proposal_for_the_front_is_the_unobserved_candidate_of_most_expected_growth():
    twin = make_twin(0, (3, 4, 3))
    gaps = start_of(twin, 8)
    proposals = propose_front(twin.space, gaps, seed=0, num=3)
    candidates = twin.space.all_candidates()
    process = root_gap_process(twin.space, gaps, seed=0)
    values = log_hypervolume_improvement(
        twin.space, process, candidates, staircase(twin.space, gaps)
    )
    order = [tuple(candidates[row].tolist()) for row in values.argsort(descending=True).tolist()]
    assert proposals[0] == next(a for a in order if a not in gaps)
    assert len(set(proposals) - gaps.keys()) == 3


def test_49_of_25600_evaluations_dominate_nearly_what_the_whole_space_does():
    twin = make_twin(0)
    everything = dict(
        zip(map(tuple, twin.space.all_candidates().tolist()), twin.all_gaps, strict=True)
    )
    reference = (twin.space.cost(twin.space.first), math.sqrt(twin.gap(twin.space.cheapest)))

    def dominated(gaps):
        points = [(twin.space.cost(a), math.sqrt(gap)) for a, gap in gaps.items()]
        return hypervolume(points, reference)

    found = optimize_front(twin.space, twin.evaluate, 24, seed=0)
    assert len(found.observations) == 49
    assert found.front == pareto_front(twin.space, found.observations)
    drawn = random.Random(0).sample(list(everything.items()), 49)
    assert dominated(found.observations) > 0.95 * dominated(everything)
    assert dominated(dict(drawn)) < 0.9 * dominated(everything)


@pytest.mark.parametrize("num_parallel", [1, 3])
def test_a_killed_search_for_the_front_goes_on_with_the_same_sequence(num_parallel):
    twin = make_twin(2, (4, 4, 4))

    def search(gap, known=None):
        return optimize_front(twin.space, one_by_one(gap), 8, 7, known, num_parallel=num_parallel)

    calls, ledger = [], {}
    whole = search(lambda a: calls.append(a) or twin.gap(a))
    assert calls == list(whole.observations)

    def until_killed(candidate):
        if len(ledger) == 14:
            raise KeyboardInterrupt
        ledger[candidate] = twin.gap(candidate)
        return ledger[candidate]

    with pytest.raises(KeyboardInterrupt):
        search(until_killed)
    rest = []
    resumed = search(lambda a: rest.append(a) or twin.gap(a), ledger)
    assert rest == calls[14:]
    assert list(resumed.observations.items()) == list(whole.observations.items())
    assert resumed.front == whole.front


def test_a_front_that_nothing_can_add_to_ends_the_search():
    twin = make_twin(0, (2, 3))
    result = optimize_front(twin.space, twin.evaluate, 50, seed=0)
    assert len(result.observations) <= 6
    assert propose_front(twin.space, result.observations, seed=0) == []


def test_beyond_a_gap_of_zero_nothing_is_gained():
    space = SearchSpace(((3.0, 2.0), (2.0, 1.0)))
    assert propose_front(space, {(0, 0): 0.0, (1, 0): 0.0, (0, 1): 0.0}, seed=0) == []


def test_a_search_for_the_front_checks_its_numbers():
    space = SearchSpace(((2.0, 1.0),))
    with pytest.raises(TocsrError, match="at least 1 candidate at a time, got 0"):
        optimize_front(space, one_by_one(lambda _: 0.0), 1, seed=0, num_parallel=0)
