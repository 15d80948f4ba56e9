import itertools
import random

import pytest

from tocsr.models.architectures import (
    NEAR,
    architecture_rows,
    fewest_macs,
    largest,
    leanest,
    nearest,
    smallest,
)
from tocsr.models.cost import Cost
from tocsr.models.library import LibraryCosts


def random_costs(seed: int, num_stages: int = 5) -> LibraryCosts:
    """A small library with many equal sums."""
    rng = random.Random(seed)
    stages = {
        f"S{i}": {
            f"v{k}": Cost(f"v{k}", rng.randrange(1, 20), rng.randrange(1, 50))
            for k in range(rng.randrange(1, 6))
        }
        for i in range(num_stages)
    }
    return LibraryCosts(stages, Cost("rest", 3, 4))


def enumerated(costs: LibraryCosts) -> list[Cost]:
    names = [list(rows) for rows in costs.stages.values()]
    return [
        costs.of(dict(zip(costs.stages, choice, strict=True)))
        for choice in itertools.product(*names)
    ]


each_library = pytest.mark.parametrize("seed", range(8))


@each_library
def test_the_number_of_candidates_is_what_enumerating_them_gives(seed):
    costs = random_costs(seed)
    assert costs.num_candidates == len(enumerated(costs))


@each_library
def test_smallest_and_largest_are_those_of_all(seed):
    costs = random_costs(seed)
    every = enumerated(costs)
    least = min((cost.params, cost.macs) for cost in every)
    assert (smallest(costs).cost.params, smallest(costs).cost.macs) == least
    assert largest(costs).cost.params == max(cost.params for cost in every)


@each_library
@pytest.mark.parametrize("num_stages", [1, 2, 5])
def test_the_nearest_is_that_of_all_and_of_equal_ones_the_leanest(seed, num_stages):
    costs = random_costs(seed, num_stages)
    for budget in range(0, 70, 7):
        within = [cost for cost in enumerated(costs) if cost.params <= budget]
        found = nearest(costs, budget)
        if not within:
            assert found is None
            continue
        best = min(within, key=lambda cost: (budget - cost.params, cost.macs))
        assert (found.cost.params, found.cost.macs) == (best.params, best.macs)
        assert found.cost == costs.of(found.choice)


@each_library
def test_fewest_macs_are_those_of_all_within_the_range(seed):
    costs = random_costs(seed)
    for least, most in [(0, 10), (20, 30), (33, 33), (25, 100), (500, 600)]:
        within = [cost.macs for cost in enumerated(costs) if least <= cost.params <= most]
        found = fewest_macs(costs, least, most)
        assert (found.cost.macs if found else None) == (min(within) if within else None)


def test_the_leanest_is_near_the_budget():
    costs = random_costs(0)
    budget = largest(costs).cost.params
    found = leanest(costs, budget)
    assert NEAR * budget <= found.cost.params <= budget


def test_where_none_is_near_the_leanest_is_the_nearest_below():
    stages = {"S": {"a": Cost("a", 10, 5), "b": Cost("b", 50, 1), "c": Cost("c", 1000, 0)}}
    costs = LibraryCosts(stages, Cost("rest", 0, 0))
    assert leanest(costs, 900).choice == {"S": "b"}


def test_people_are_told_how_many_there_are_and_of_a_few():
    stages = {"S": {"a": Cost("a", 10, 5 * 10**9), "b": Cost("b", 50, 10**9)}}
    costs = LibraryCosts(stages, Cost("rest", 2, 0))
    rows = architecture_rows(costs, 51)
    assert rows["number"] == "2"
    assert rows["smallest"] == "12 parameters, 5 GMACs: S a"
    assert rows["nearest to 51 parameters"] == rows["smallest"]
    assert rows["largest"] == "52 parameters, 1 GMACs: S b"
    assert architecture_rows(costs, 11)["nearest to 11 parameters"].startswith("none")
    assert len(architecture_rows(costs, None)) == 3
