import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from tocsr.deploy.statistics import compare, mean_with_interval


def test_the_interval_of_equal_values_is_a_point():
    found = mean_with_interval([3.5] * 7)
    assert (found.mean, found.low, found.high, found.num_images) == (3.5, 3.5, 3.5, 7)


def test_the_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).normal(20, 3, 80)
    theirs = bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = mean_with_interval(values.tolist())
    # the ends of 2000 resamples scatter by about 0.03 of a standard error of 3 / sqrt(80)
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.05)


def test_a_larger_sample_has_a_narrower_interval():
    values = np.random.default_rng(0).normal(size=400).tolist()
    few, many = mean_with_interval(values[:25]), mean_with_interval(values)
    assert many.high - many.low < (few.high - few.low) / 2


def test_the_interval_is_the_same_at_every_call():
    values = np.random.default_rng(0).normal(size=30).tolist()
    assert mean_with_interval(values) == mean_with_interval(values)


def test_values_that_are_not_defined_are_left_out_and_counted():
    found = mean_with_interval([1.0, math.nan, 3.0])
    assert (found.mean, found.num_images) == (2.0, 2)
    assert mean_with_interval([math.nan]).num_images == 0


def test_infinite_values_make_an_infinite_mean():
    found = mean_with_interval([math.inf, 20.0])
    assert (found.mean, found.high) == (math.inf, math.inf)


@pytest.mark.parametrize(("higher_is_better", "wins"), [(True, 2), (False, 1)])
def test_wins_go_by_the_direction_of_the_metric(higher_is_better, wins):
    found = compare([3.0, 5.0, 1.0, 2.0], [2.0, 3.0, 4.0, 2.0], higher_is_better)
    assert (found.wins, found.losses, found.ties) == (wins, 3 - wins, 1)
    assert found.difference.mean == 0


def test_swapped_systems_have_the_opposite_difference():
    one, other = np.random.default_rng(0).normal(size=(2, 50)).tolist()
    there, back = compare(one, other, True), compare(other, one, True)
    assert there.difference.mean == pytest.approx(-back.difference.mean)
    assert (there.wins, there.losses) == (back.losses, back.wins)


def test_pairing_narrows_the_interval_of_a_constant_difference():
    values = np.random.default_rng(0).normal(20, 5, 40)
    found = compare((values + 0.1).tolist(), values.tolist(), True).difference
    assert found.high - found.low < 1e-9
    assert found.mean == pytest.approx(0.1)


def test_a_pair_with_an_undefined_value_is_no_win():
    found = compare([math.nan, 2.0], [1.0, 1.0], True)
    assert (found.wins, found.losses, found.ties, found.difference.num_images) == (1, 0, 0, 1)
