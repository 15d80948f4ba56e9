"""The benchmark of fidelity at micro size."""

import importlib
from pathlib import Path

from micro import MICRO


def test_the_benchmark_compares_every_way_with_the_plain_one(finished_runs, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    argv = [f"--preset={MICRO}", f"--runs={finished_runs}", "--num_threads=1"]
    importlib.import_module("fidelity").main([*argv, "--num=3", "--slice", "D1"])
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in x.split("|")[1:-1]] for x in lines if x.startswith("|")][2:]
    half = len(rows) // 2
    assert [row[1] for row in rows[:half]] == [row[1] for row in rows[half:]]
    assert rows[0][:5] == ["random, 3", "plain", "random", rows[0][3], "1.0"]
    assert rows[half][0].startswith("all of D1, ")
    assert all(float(row[3]) > 0 for row in rows)
    whole = [row[5] for row in rows[:half] if not row[1].startswith("and abandoned")]
    assert whole == ["3"] * (half - 2)  # two ways abandon
    assert lines[-1].startswith("- share of convolutions")
