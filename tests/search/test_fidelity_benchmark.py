"""The benchmark of fidelity at micro size."""

import importlib
from pathlib import Path

from micro import MICRO


def test_the_benchmark_compares_every_way_with_the_plain_one(finished_runs, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    options = ["--num=3", "--slice", "D1", "--num_threads=1"]
    importlib.import_module("fidelity").main(
        [f"--preset={MICRO}", f"--runs={finished_runs}", *options]
    )
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in x.split("|")[1:-1]] for x in lines if x.startswith("|")]
    assert [row[0] for row in rows[2:] if row[0]][0] == "random, 3"
    ways = [row[1] for row in rows[2:]]
    assert ways[: len(ways) // 2] == ways[len(ways) // 2 :]
    assert ways[0] == "plain"
    by_way = {row[1]: row for row in rows[2 : 2 + len(ways) // 2]}
    assert all(by_way[way][4] == "3" for way in ways if not way.startswith("and abandoned"))
    assert all(float(row[2 + 1]) > 0 for row in rows[2:])
    assert lines[-1].startswith("- share of convolutions")
