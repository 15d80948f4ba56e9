"""Timing: what is run, how often, and what is said of it."""

import numpy as np
import pytest
import torch

from tocsr.deploy import latency, profile
from tocsr.deploy.configs import ProfileConfig
from tocsr.deploy.latency import NUM_WARM_UP, measured
from tocsr.errors import TocsrError
from tocsr.models.cost import uncounted_operators
from tocsr.preset_files import SHIPPED_MODEL


def test_runs_that_warm_up_are_not_timed(monkeypatch):
    # every run takes as many seconds as its number: 0, 1, 2 warm up, 3 to 7 are timed
    ticks = iter(np.cumsum([0, *(step for run in range(8) for step in (run, 0))]).tolist())
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(ticks))
    calls = []
    found = measured(lambda: calls.append(1), 5)
    assert len(calls) == NUM_WARM_UP + 5
    assert found.median_ms == 5000
    assert found.late_ms == pytest.approx(6800)  # between the sixth and the seventh second


@pytest.mark.skipif(not latency.forget_peak(), reason="the system does not say the peak")
def test_the_peak_is_that_of_the_run_itself():
    def take(mib):
        return np.ones(mib * 2**20, np.uint8).sum()

    large, small = measured(lambda: take(300), 1), measured(lambda: take(1), 1)
    assert 200 < large.peak_mib - small.peak_mib < 400


def test_a_system_that_does_not_say_the_peak_is_said_so(monkeypatch, tmp_path):
    monkeypatch.setattr(latency, "_PROCESS", tmp_path / "none")
    assert str(measured(lambda: None, 1)).endswith("peak not counted")


def test_a_finished_model_is_timed_part_by_part_and_in_its_engines():
    result = profile.run(ProfileConfig(model=SHIPPED_MODEL, pixels=64, num_runs=2, num_threads=1))
    rows = result["latency"]
    assert rows["runs"] == "2 of each, after 3 that warm up, batch 1"
    assert {"encoder", "unet", "decoder", "whole"} < rows.keys()
    assert any(part.startswith("whole, onnxruntime") for part in rows)


def test_no_runs_leave_the_timing_out():
    result = profile.run(ProfileConfig(model=SHIPPED_MODEL, pixels=64, num_runs=0))
    assert "latency" not in result
    assert "silu" in result["not counted"]


def test_operators_with_a_formula_and_views_are_not_named_as_left_out():
    layer = torch.nn.Conv2d(2, 2, 3, device="meta")
    x = torch.empty(1, 2, 8, 8, device="meta")
    assert uncounted_operators(lambda: layer(x).tanh().view(-1)) == ["tanh"]


@pytest.mark.parametrize("name", ["num_runs", "num_threads"])
def test_negative_numbers_are_refused(name):
    with pytest.raises(TocsrError, match=f"{name} must be at least 0, got -1"):
        ProfileConfig(**{name: -1})
