import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_the_benchmark_prints_rates_and_shares_that_sum_to_one(capsys, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    argv = ["--crop", "64", "--batch", "4", "--rounds", "2", "--degradations", "bicubic", "hard"]
    importlib.import_module("degradation").main(argv)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows[2:4]] == ["bicubic", "hard"]
    assert float(rows[2][2]) > float(rows[3][2]) > 0
    shares = [float(cell.rstrip("%")) for cell in rows[7][2:]]
    assert sum(shares) == pytest.approx(100, abs=4)  # each is rounded
    assert shares[rows[4].index("blur") - 2] > 0
