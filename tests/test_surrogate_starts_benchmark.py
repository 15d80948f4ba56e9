"""The benchmark of the surrogates' starts at micro size."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import MICRO

from tocsr.models.folders import load_unet
from tocsr.models.library import surrogate_library
from tocsr.models.variants import TEACHER

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def rows(finished_runs, capsys, monkeypatch):
    """The cells of the table's lines."""
    monkeypatch.syspath_prepend(FOLDER)
    argv = ["--preset", str(MICRO), "--runs", str(finished_runs), "--num_threads", "1"]
    argv += ["--seeds", "0", "1", "--steps", "2", "--batch_size", "2", "--num_crops", "4"]
    importlib.import_module("surrogate_starts").main(argv)
    lines = capsys.readouterr().out.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_surrogate_is_measured_from_every_start(rows, finished_runs):
    head, _, *lines = rows
    assert head[2:5] == ["constructed, before", "copied, before", "from the teacher, before"]
    assert head[5:] == [cell.replace("before", "after 2") for cell in head[2:5]]
    teacher = load_unet(finished_runs / "expand-unet" / "unet")
    library = surrogate_library(teacher)
    names = [[stage, name] for stage, row in library.items() for name in row if name != TEACHER]
    means = [[stage, "geometric mean"] for stage in (*library, "all")]
    assert [line[:2] for line in lines] == names + means
    losses = np.array([line[2:] for line in lines], float)
    single, whole = losses[: len(names)], losses[-1]
    # four digits are printed
    assert np.exp(np.log(single).mean(axis=0)) == pytest.approx(whole, rel=2e-3)
    full = next(i for i, name in enumerate(names) if name == ["E1", "r2-full-inner2-full"])
    assert losses[full, 2] < losses[full, 0]
    copied = next(i for i, name in enumerate(names) if name == ["E1", "r1-full-full"])
    assert losses[copied, 1] == losses[copied, 2]  # there is nothing but copying
    assert torch.tensor(losses).isfinite().all()
