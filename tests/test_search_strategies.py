"""The benchmark of strategies, on spaces of a few dozen candidates."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from twins import make_twin

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The table of a space of 48 candidates."""
    twin = make_twin(0, (3, 4, 4))
    candidates = twin.space.all_candidates().tolist()
    gaps = {",".join(map(str, a)): twin.gap(tuple(a)) for a in candidates}
    tolerances = [twin.tolerance(0.1), twin.tolerance(0.4)]
    table = {
        "costs": twin.space.costs,
        "proxies": [table.tolist() for table in twin.gaps],
        "gaps": gaps,
        "tolerances": tolerances,
    }
    path = tmp_path_factory.mktemp("truth") / "gaps.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


@pytest.fixture
def strategies():
    return importlib.import_module("strategies")


NAMES = [
    "ours",
    "random",
    "evolutionary",
    "Optuna GPSampler",
    "knapsack, calibration losses",
    "knapsack, single swaps",
]


def test_every_strategy_is_tested(strategies):
    assert list(strategies.STRATEGIES) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_strategy_finds_every_optimum_of_a_small_space(strategies, path, name, seed):
    truth = strategies.read_truth(path, [])
    tally = strategies.carried_out(strategies.STRATEGIES[name], truth, 48, seed)
    assert tally.hit.keys() == set(truth.tolerances)
    assert all(tally.near[tolerance] <= count for tolerance, count in tally.hit.items())
    assert max(tally.hit.values()) == len(tally.observations)  # it stops there
    again = strategies.carried_out(strategies.STRATEGIES[name], truth, 48, seed)
    assert list(tally.observations) == list(again.observations)


@pytest.mark.parametrize("name", NAMES)
def test_no_strategy_sees_more_than_its_budget(strategies, path, name):
    truth = strategies.read_truth(path, [1e-9])  # only the teacher is feasible
    tally = strategies.carried_out(strategies.STRATEGIES[name], truth, 2, 3)
    assert len(tally.observations) <= 2


def test_a_tally_counts_new_candidates_and_notes_when_an_optimum_came(strategies, path):
    truth = strategies.read_truth(path, [])
    small, large = truth.tolerances
    winner = {
        tolerance: min(
            (a for a, gap in truth.gaps.items() if gap <= tolerance), key=truth.costs.__getitem__
        )
        for tolerance in truth.tolerances
    }
    tally = strategies.Tally(truth, 48)
    for candidate in [(0, 0, 0), (0, 0, 0), winner[large], (0, 0, 0)]:
        assert tally.gap(candidate) == truth.gaps[candidate]
    assert list(tally.observations) == [(0, 0, 0), winner[large]]
    assert tally.hit == tally.near == {large: 2}
    with pytest.raises(strategies.Over):
        tally.gap(winner[small])
    assert tally.hit[small] == 3


def test_the_median_of_what_was_mostly_not_found_is_never(strategies):
    never = float("inf")
    assert strategies.median([3.0, never, 1.0]) == 3.0
    assert strategies.median([3.0, never, never, 1.0, never]) == never


def test_the_table_counts_the_seeds_that_got_there(path, capsys):
    module = importlib.import_module("search_strategies")
    argv = ["--table", str(path), "--num_seeds", "3", "--share", "1"]
    module.main([*argv, "--strategies", "ours", "random", "knapsack, single swaps"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["tolerance", "least cost", "feasible", "within 1 %"]
    assert [row[2] for row in cells[2:4]] == ["5", "19"]  # of 48, by the quantiles asked for
    assert [row[0] for row in cells[-3:]] == ["ours", "random", "knapsack, single swaps"]
    for row in cells[-3:]:
        assert row[-2].endswith("(3)")  # with all of the space to see, every seed gets there


def test_a_budget_too_small_is_said_to_be(path, capsys):
    module = importlib.import_module("search_strategies")
    module.main(
        ["--table", str(path), "--num_seeds", "2", "--share", "0.05", "--strategies", "random"]
    )
    row = capsys.readouterr().out.splitlines()[-1]
    assert row.split("|")[-3].strip() == "- (0)"
