import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("evaluation")


def test_the_benchmark_holds_each_metric_against_scikit_image(benchmark, capsys):
    benchmark.main(["--images", "1", "--systems", "2", "--side", "64", "--rounds", "1"])
    out, err = capsys.readouterr()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()[4:]]
    assert [(row[0], row[2]) for row in rows] == [
        ("PSNR-Y", "scikit-image"),
        ("SSIM-Y", "scikit-image"),
    ]
    assert all(float(row[5]) < 1e-4 for row in rows)
    assert "stlpips: needs in the folder --metric_weights" in err
