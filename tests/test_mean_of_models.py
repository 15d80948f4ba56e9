"""examples/mean_of_models.py: what several models share is kept, and so much of the start."""

import copy
import importlib
from pathlib import Path

import pytest
import torch

from tocsr.models.sr import OneStepGenerator
from tocsr.preset_files import SHIPPED_MODEL


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    return importlib.import_module("mean_of_models")


def moved(model: OneStepGenerator, by: float) -> OneStepGenerator:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(by)
    return other


def test_weights_go_a_share_of_the_way_to_the_mean(example, tmp_path):
    start = OneStepGenerator.from_pretrained(SHIPPED_MODEL).float()
    folders = [tmp_path / name for name in ("start", "a", "b")]
    for folder, by in zip(folders, (0.0, 0.5, 0.25), strict=True):
        moved(start, by).save_pretrained(folder)
    begun, *models = map(str, folders)
    out = tmp_path / "out"
    example.main([str(out), "--start", begun, "--models", *models, "--share", "0.8"])
    result = OneStepGenerator.from_pretrained(out)
    assert result.facts.upscale == 4
    for weight, before in zip(result.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(weight, before + 0.8 * 0.375)
