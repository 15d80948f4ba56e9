from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean

import numpy as np
import pytest
import torch
from botorch.exceptions import ModelFittingError

from tocsr.errors import TocsrError
from tocsr.search import bayesopt
from tocsr.search.bayesopt import (
    Candidate,
    SearchSpace,
    acquisition,
    cheapest_feasible,
    fit_gp,
    initial_candidates,
    optimize,
    propose,
)

SEEDS = (0, 1, 2)
NUM_INITIAL, NUM_ITERATIONS = 10, 14
# Mean of cost / optimum. Measured: proposed 1.05 (1.08 over 8 seeds), random 1.51 (1.53).
THRESHOLD = 1.15


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Twin:
    """A synthetic search: a gap per stage and variant, plus terms of pairs of stages."""

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

    def all_gaps(self) -> list[float]:
        return [self.gap(tuple(a)) for a in self.space.all_candidates().tolist()]

    def tolerance(self, quantile: float) -> float:
        return float(np.quantile(self.all_gaps(), quantile))

    def optimum(self, tolerance: float) -> float:
        feasible = torch.tensor(self.all_gaps()) <= tolerance
        return float(self.space.costs_of(self.space.all_candidates())[feasible].min())


def make_twin(seed: int, sizes: tuple[int, ...] = (4, 5, 4, 4, 4, 5, 4)) -> Twin:
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


def choose_at_random(space, observations, tolerance, seed) -> Candidate:
    rng = np.random.default_rng(seed)
    return tuple(int(rng.choice(allowed)) for allowed in space.choices)


def ratio_to_optimum(seed: int, choose) -> float:
    twin = make_twin(seed)
    tolerance = twin.tolerance(0.02)
    result = optimize(
        twin.space, twin.gap, [tolerance], NUM_INITIAL, NUM_ITERATIONS, seed, choose=choose
    )
    return twin.space.cost(result.winners[tolerance]) / twin.optimum(tolerance)


def test_24_of_25600_evaluations_come_near_the_optimum_and_random_ones_do_not():
    assert make_twin(0).space.num_candidates == 25_600
    assert mean(ratio_to_optimum(seed, propose) for seed in SEEDS) <= THRESHOLD
    assert mean(ratio_to_optimum(seed, choose_at_random) for seed in SEEDS) > THRESHOLD


def test_the_acquisition_is_the_logarithm_of_saving_times_probability_of_being_feasible():
    twin = make_twin(0, (3, 3, 3))
    space, candidates = twin.space, twin.space.all_candidates()
    observations = {a: twin.gap(a) for a in initial_candidates(space, 6, seed=0)}
    gp = fit_gp(space, observations)
    best_cost, tolerance = space.cost((0, 0, 0)) * 0.8, twin.tolerance(0.3)
    values = acquisition(space, gp, candidates, best_cost, tolerance)
    free = acquisition(space, gp, candidates, None, tolerance)

    # BoTorch's own posterior is another path to the same means and variances.
    with torch.no_grad():
        posterior = gp.posterior(bayesopt._features(space, candidates))
    for row, candidate in enumerate(candidates.tolist()):
        mean_root = float(posterior.mean[row])
        std = math.sqrt(float(posterior.variance[row]))
        z = (math.sqrt(tolerance) - mean_root) / std
        probability = 0.5 * math.erfc(-z / math.sqrt(2))
        saving = best_cost - space.cost(tuple(candidate))
        # rel 1e-5: float64, but BoTorch rounds tiny variances and adds jitter in its own way
        assert float(free[row].exp()) == pytest.approx(probability, rel=1e-5, abs=1e-12)
        if saving > 0:
            expected = pytest.approx(saving * probability, rel=1e-5, abs=1e-12)
            assert float(values[row].exp()) == expected
        else:
            assert float(values[row]) == -math.inf


def test_a_larger_tolerance_makes_every_candidate_more_likely_to_be_feasible():
    twin = make_twin(1, (3, 3, 3))
    gp = fit_gp(twin.space, {a: twin.gap(a) for a in initial_candidates(twin.space, 6, seed=0)})
    candidates = twin.space.all_candidates()
    small, large = (acquisition(twin.space, gp, candidates, None, t) for t in (0.01, 0.04))
    assert (large > small).all()


def test_a_gap_equal_to_the_tolerance_is_feasible_and_ties_go_to_the_smaller_gap():
    space = SearchSpace(((2.0, 1.0, 1.0),))
    gaps = {(0,): 0.0, (1,): 0.5, (2,): 0.25}
    assert cheapest_feasible(space, gaps, 0.5) == (2,)
    assert cheapest_feasible(space, gaps, 0.25) == (2,)
    assert cheapest_feasible(space, gaps, 0.2) == (0,)
    assert cheapest_feasible(space, {(1,): 0.5}, 0.2) is None


def test_no_candidate_is_evaluated_twice_and_a_killed_search_goes_on_with_the_same_sequence():
    twin = make_twin(2, (4, 4, 4, 4))
    tolerances = [twin.tolerance(0.05), twin.tolerance(0.3)]

    def search(evaluate, observations=None):
        return optimize(twin.space, evaluate, tolerances, 5, 4, 7, observations)

    calls: list[Candidate] = []
    whole = search(lambda a: calls.append(a) or twin.gap(a))
    assert len(calls) == len(set(calls)) == len(whole.observations)
    assert calls == list(whole.observations)

    ledger: dict[Candidate, float] = {}

    def evaluate_until_killed(candidate: Candidate) -> float:
        if len(ledger) == 8:  # in the middle of the first tolerance
            raise KeyboardInterrupt
        ledger[candidate] = twin.gap(candidate)
        return ledger[candidate]

    with pytest.raises(KeyboardInterrupt):
        search(evaluate_until_killed)
    rest: list[Candidate] = []
    resumed = search(lambda a: rest.append(a) or twin.gap(a), ledger)
    assert rest == calls[8:]
    assert list(resumed.observations.items()) == list(whole.observations.items())
    assert resumed.winners == whole.winners


def test_a_larger_tolerance_never_gives_a_larger_model():
    twin = make_twin(3)
    tolerances = [twin.tolerance(q) for q in (0.5, 0.001, 0.1, 0.9, 0.02)]  # in any order
    result = optimize(twin.space, twin.gap, tolerances, 30, 10, 0, choose=choose_at_random)
    costs = [twin.space.cost(result.winners[t]) for t in sorted(tolerances)]
    assert costs == sorted(costs, reverse=True)
    for tolerance, winner in result.winners.items():
        assert result.observations[winner] <= tolerance


def test_the_exact_zero_of_the_teacher_wins_at_tolerance_zero():
    twin = make_twin(0, (3, 3))
    result = optimize(twin.space, lambda a: 0.1 * any(a), [0.0], 3, 2, seed=0)
    assert result.observations[0, 0] == 0.0
    assert result.winners == {0.0: (0, 0)}


def test_an_exhausted_space_proposes_none_and_ends_the_search():
    twin = make_twin(0, (2, 3))
    gaps = {tuple(a): twin.gap(tuple(a)) for a in twin.space.all_candidates().tolist()}
    assert propose(twin.space, gaps, tolerance=0.0, seed=0) is None
    # With every gap feasible nothing is cheaper than the cheapest, though much is unobserved.
    cheapest = initial_candidates(twin.space, 2, seed=0)[1]
    assert propose(twin.space, {(0, 0): 0.0, cheapest: gaps[cheapest]}, math.inf, 0) is None
    result = optimize(twin.space, twin.gap, [0.0], 2, 50, seed=0)
    assert result.observations.keys() == gaps.keys()


def test_a_space_without_the_teacher_is_searched_for_anything_feasible():
    twin = make_twin(1, (4, 4, 4, 4))
    space = SearchSpace(twin.space.costs, choices=((1, 2, 3),) * 4)
    tolerance = min(twin.gap(tuple(a)) for a in space.all_candidates().tolist())
    result = optimize(space, twin.gap, [tolerance], 5, 10, seed=0)
    assert all(0 not in candidate for candidate in result.observations)
    assert cheapest_feasible(space, dict(list(result.observations.items())[:5]), tolerance) is None
    assert result.winners[tolerance] in space  # found 1 feasible of 81 within 15


def test_a_fit_that_fails_leaves_a_process_that_still_proposes(monkeypatch):
    def failing_fit(*_, **__):
        raise ModelFittingError("all attempts to fit the model have failed")

    monkeypatch.setattr(bayesopt, "fit_gpytorch_mll", failing_fit)
    twin = make_twin(0)
    observations = {a: twin.gap(a) for a in initial_candidates(twin.space, 10, seed=0)}
    tolerance = twin.tolerance(0.02)
    proposal = propose(twin.space, observations, tolerance, seed=0)
    best = cheapest_feasible(twin.space, observations, tolerance)
    assert proposal not in observations
    assert twin.space.cost(proposal) < twin.space.cost(best)


def test_the_start_design_holds_both_ends_and_shows_every_variant_equally_often():
    space = make_twin(0, (4, 4, 4)).space
    design = initial_candidates(space, 10, seed=3)
    assert design[:2] == [(0, 0, 0), (3, 3, 3)]  # costs fall with the index
    assert len(set(design)) == 10
    assert design == initial_candidates(space, 10, seed=3)
    assert design != initial_candidates(space, 10, seed=4)
    for column in zip(*design[2:], strict=True):
        assert sorted(column) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(set(initial_candidates(space, 1000, seed=0))) == space.num_candidates == 64


def test_costs_are_sums_of_the_table_alone_and_in_a_batch():
    space = SearchSpace(((10.0, 1.0), (0.1, 0.2, 0.3)), choices=((1,), (0, 2)))
    assert space.all_candidates().tolist() == [[1, 0], [1, 2]]
    assert space.costs_of(space.all_candidates()).tolist() == [1.0 + 0.1, 1.0 + 0.3]
    assert space.cost((1, 2)) == 1.0 + 0.3
    assert (1, 2) in space
    assert (0, 2) not in space
    assert (1, 0, 0) not in space


def test_one_stage_and_one_observation_are_enough():
    space = SearchSpace(((3.0, 2.0, 1.0),))
    assert propose(space, {(0,): 0.0}, tolerance=1.0, seed=0) in {(1,), (2,)}


def test_a_ledger_from_elsewhere_keeps_its_winner_unless_the_choices_exclude_it():
    space = SearchSpace(((3.0, 2.0, 1.0),) * 2, choices=((0, 1), (0, 1, 2)))
    ledger = {(2, 2): 0.0, (1, 2): 0.0}
    result = optimize(space, lambda a: 1.0 * any(a), [0.5], 1, 0, 0, ledger)
    assert result.winners == {0.5: (1, 2)}
    assert (2, 2) not in result.observations


def test_a_space_too_large_is_refused_before_the_first_evaluation():
    space = SearchSpace((tuple(map(float, range(9))),) * 7)  # 9^7 = 4 782 969

    def evaluate(candidate):
        pytest.fail("evaluated")

    with pytest.raises(TocsrError, match=r"at most 2,000,000 .* has 4,782,969; allow fewer"):
        space.all_candidates()
    with pytest.raises(TocsrError, match="at most 2,000,000"):
        optimize(space, evaluate, [1.0], 2, 1, seed=0)


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


@pytest.mark.parametrize("gap", [math.nan, math.inf, -0.1])
def test_a_gap_that_is_not_a_mean_square_is_refused(gap):
    with pytest.raises(TocsrError, match=r"gap must be finite and at least 0, \(0,\) has"):
        optimize(SearchSpace(((2.0, 1.0),)), lambda _: gap, [1.0], 1, 1, seed=0)


def test_tolerances_and_the_number_of_initial_candidates_are_checked():
    space = SearchSpace(((2.0, 1.0),))
    with pytest.raises(TocsrError, match="tolerances must be finite"):
        optimize(space, lambda _: 0.0, [-1.0], 1, 1, seed=0)
    with pytest.raises(TocsrError, match="at least 1 initial candidate, got 0"):
        optimize(space, lambda _: 0.0, [1.0], 0, 1, seed=0)
