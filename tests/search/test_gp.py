from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from botorch.exceptions import ModelFittingError
from twins import make_twin, start_of

from tocsr.search import gp as gp_module
from tocsr.search.additive import AdditiveGap
from tocsr.search.bayesopt import propose
from tocsr.search.gp import RootGap, factors, fit_gp, log_probability, root_gap_process
from tocsr.search.space import cheapest_feasible

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("num", [0, 6, 20])
def test_means_and_deviations_are_those_of_botorchs_own_posterior(num):
    twin = make_twin(0, (3, 4, 3))
    gaps = start_of(twin, num)
    additive = AdditiveGap.observed(twin.space, gaps)
    gp = fit_gp(twin.space, factors(additive, gaps))
    candidates = twin.space.all_candidates()
    mean, std = RootGap.of(twin.space, additive, gp).factor(candidates)
    with torch.no_grad():
        posterior = gp.posterior(candidates.double(), observation_noise=True)
    # rel 1e-6: float64 by two ways through matrices of at most 30 rows
    torch.testing.assert_close(mean, posterior.mean.squeeze(-1), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(std, posterior.variance.squeeze(-1).sqrt(), rtol=1e-6, atol=1e-9)


def test_a_candidate_is_predicted_alike_alone_and_in_a_batch(monkeypatch):
    twin = make_twin(0, (3, 4, 3))
    process = root_gap_process(twin.space, start_of(twin, 8), seed=0)
    candidates = twin.space.all_candidates()
    whole = process.predict(candidates)
    monkeypatch.setattr(gp_module, "_ROWS", 5)
    for one, other in zip(whole, process.predict(candidates), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    assert [len(part) for part in process.predict(candidates[:0])] == [0, 0]


def test_the_process_predicts_a_space_from_one_in_five_hundred_of_it():
    twin = make_twin(0)
    process = root_gap_process(twin.space, start_of(twin, 51), seed=0)
    truth = torch.tensor(twin.all_gaps, dtype=torch.float64).sqrt()
    mean, std = process.predict(twin.space.all_candidates())
    error = truth - mean
    assert error.square().mean() < 0.1 * truth.var()  # measured: 0.02
    inside = (error.abs() < 2 * std).double().mean()
    assert 0.85 < inside <= 1.0  # a Gaussian: 0.954


def test_what_is_observed_is_certain_but_for_the_noise():
    twin = make_twin(1, (3, 4, 3))
    gaps = start_of(twin, 12)
    process = root_gap_process(twin.space, gaps, seed=0)
    _, std = process.factor(torch.tensor(list(gaps)))
    noise = process.scale * math.sqrt(process.noise)
    assert (std < 1.5 * noise).all()
    assert (std >= noise).all()


def test_a_believed_candidate_changes_no_mean_and_no_deviation_far_from_it():
    twin = make_twin(0, (4, 4, 4, 4))
    process = root_gap_process(twin.space, start_of(twin, 12), seed=0)
    candidates = twin.space.all_candidates()
    mean, std = process.predict(candidates)
    row = int(std.argmax())
    believed = process.believing(tuple(candidates[row].tolist()))
    new_mean, new_std = believed.predict(candidates)
    torch.testing.assert_close(new_mean, mean, rtol=1e-9, atol=1e-12)
    assert (new_std <= std + 1e-12).all()
    assert new_std[row] < 0.75 * std[row]
    # the same as fitting nothing and conditioning on one more observation
    factor = process.factor(candidates[row : row + 1])[0]
    outcome = (factor - process.shift) / process.scale - process.mean
    by_hand = replace(
        process,
        observed=torch.cat([process.observed, candidates[row : row + 1]]),
        residual=torch.cat([process.residual, outcome.reshape(1)]),
    )
    torch.testing.assert_close(by_hand.predict(candidates)[1], new_std, rtol=1e-12, atol=0)


def test_the_probability_of_being_feasible_is_the_gaussians():
    twin = make_twin(0, (3, 3, 3))
    process = root_gap_process(twin.space, start_of(twin, 6), seed=0)
    candidates, tolerance = twin.space.all_candidates(), twin.tolerance(0.3)
    mean, std = process.predict(candidates)
    for row, value in enumerate(log_probability(process, candidates, tolerance).exp().tolist()):
        z = (math.sqrt(tolerance) - float(mean[row])) / float(std[row])
        assert value == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2)), rel=1e-9, abs=1e-15)


def test_a_process_is_a_function_of_the_observations_and_not_of_the_generator():
    twin = make_twin(0, (3, 3, 3))
    gaps = start_of(twin, 6)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = root_gap_process(twin.space, gaps, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second = root_gap_process(twin.space, gaps, seed=0)
    candidates = twin.space.all_candidates()
    assert torch.equal(first.predict(candidates)[0], second.predict(candidates)[0])


def test_a_fit_that_fails_leaves_a_process_that_still_proposes(monkeypatch):
    def failing_fit(*_, **__):
        raise ModelFittingError("all attempts to fit the model have failed")

    monkeypatch.setattr(gp_module, "fit_gpytorch_mll", failing_fit)
    twin = make_twin(0)
    observations = start_of(twin, 10)
    tolerance = twin.tolerance(0.02)
    (proposal,) = propose(twin.space, observations, tolerance, seed=0)
    best = cheapest_feasible(twin.space, observations, tolerance)
    assert proposal not in observations
    assert twin.space.cost(proposal) < twin.space.cost(best)


def test_the_process_expects_the_sum_of_single_swaps_times_the_square_of_a_factor():
    twin = make_twin(0, (3, 4, 3))
    gaps = start_of(twin, 6)
    process = root_gap_process(twin.space, gaps, seed=0)
    candidates = twin.space.all_candidates()
    sums = AdditiveGap.observed(twin.space, gaps).of(candidates)
    for part, factor in zip(process.predict(candidates), process.factor(candidates), strict=True):
        torch.testing.assert_close(part[1:], (sums.sqrt() * factor)[1:], rtol=1e-12, atol=0)
    assert sums[0] == 0  # the teacher: no factor gives it a gap
    assert process.predict(candidates[:1])[0].abs() < 1e-5


def test_the_factor_of_a_single_swap_is_one():
    twin = make_twin(0, (3, 4, 3))
    gaps = start_of(twin)
    found = factors(AdditiveGap.observed(twin.space, gaps), gaps)
    assert list(found) == list(gaps)
    assert list(found.values()) == pytest.approx([1.0] * len(gaps))
