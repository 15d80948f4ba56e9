"""The phase calibrate: its settings, its files, and who trains them."""

import importlib
from pathlib import Path

import pytest
from calibrated import NAMES, Killed, equal, weights
from micro import MICRO, micro_config

from tocsr.errors import TocsrError
from tocsr.files import write_json
from tocsr.models.variants import TEACHER
from tocsr.train import calibrate, learner


@pytest.fixture
def runs(expanded, tmp_path):
    """A new `--runs` folder from which calibrate can start."""
    (tmp_path / "expand-unet").symlink_to(expanded / "expand-unet")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--optim.schedule=cosine"], "patience must be 0 where the learning rate falls, got 4"),
        (
            ["--optim.gradient_checkpointing=true"],
            "gradient_checkpointing must be off in calibrate",
        ),
        (["--min_gain=1"], r"min_gain must be in \[0, 1\), got 1"),
        (["--group_params=-1"], "group_params must be at least 0, got -1"),
        (["--num_heldout=0"], "num_heldout must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, options, said):
    with pytest.raises(TocsrError, match=said):
        micro_config("calibrate", tmp_path, *options)


@pytest.fixture
def library(monkeypatch):
    """Sets the library of the phase, since the whole one would take long."""

    def put(names):
        rows = {}
        for name in names:
            stage, variant = name.split("/")
            rows.setdefault(stage, [TEACHER]).append(variant)
        monkeypatch.setattr(calibrate, "surrogate_library", lambda *_: rows)

    put(NAMES)
    return put


def test_the_phase_leaves_these_files(runs, library):
    result = calibrate.run(micro_config("calibrate", runs))
    folder = runs / "calibrate"
    found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    own = ("surrogates/{}.safetensors", "surrogates/{}.json", "trainings/{}/metrics.jsonl")
    expected = {text.format(name) for text in own for name in NAMES}
    assert found == {".lock", "config.yaml", "result.json", *expected}
    assert list(result["surrogates"]) == list(NAMES)
    assert result["teacher_passes"] == pytest.approx(4)


def test_only_a_new_row_of_the_library_is_trained(runs, library):
    library(NAMES[:2])
    before = calibrate.run(micro_config("calibrate", runs))["surrogates"]
    files = {path: path.stat().st_mtime_ns for path in (runs / "calibrate/surrogates/E1").iterdir()}
    (runs / "calibrate" / "result.json").unlink()
    library(NAMES)
    trained = []
    after = calibrate.run(micro_config("calibrate", runs), lambda label, *_: trained.append(label))
    assert after["surrogates"].keys() == set(NAMES)
    assert all(after["surrogates"][name] == row for name, row in before.items())
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert trained == ["calibrate, group 1 of 1"] * 4 + ["surrogates"]


def test_a_kill_between_two_surrogates_loses_neither(runs, library, monkeypatch):
    calls = []

    def write_once(path, value):
        calls.append(path)
        if len(calls) == 2:
            raise Killed
        write_json(path, value)

    monkeypatch.setattr(learner, "write_json", write_once)
    config = micro_config("calibrate", runs)
    with pytest.raises(Killed):
        calibrate.run(config)
    first = calls[0].stat().st_mtime_ns
    calibrate.run(config)
    assert calls[0].stat().st_mtime_ns == first
    assert len(calls) == 4  # one, the kill, two
    assert not list((runs / "calibrate").rglob("checkpoint.safetensors"))


def test_a_surrogate_no_better_than_leaving_its_stage_out_is_marked(runs, library):
    said = []
    options = ("--optim.lr=3", "--patience=0")  # steps so long that what the start knew is lost
    result = calibrate.run(micro_config("calibrate", runs, *options), lambda *a: said.append(a))
    marked = {n for n, row in result["surrogates"].items() if not row["beats_leaving_out"]}
    assert marked == set(result["worse_than_leaving_out"]) == set(NAMES)
    for row in result["surrogates"].values():
        assert row["heldout_loss"] >= row["left_out_loss"] > 0
    assert said[-1][0] == "surrogates"
    assert said[-1][3]["worse than leaving out"] == len(NAMES)


def test_two_workers_make_the_same_surrogates_as_this_process(runs, library, train, tmp_path):
    result = calibrate.run(micro_config("calibrate", runs, "--workers=2"))
    here = train("here", NAMES)
    for name in NAMES:
        assert equal(weights(runs, name), weights(tmp_path / "here", name))
        assert result["surrogates"][name]["heldout_loss"] == here[name]["heldout_loss"]
    assert result["teacher_passes"] == pytest.approx(2 * 4)


def test_groups_and_workers_may_change_when_a_run_goes_on(runs, library):
    calibrate.run(micro_config("calibrate", runs))
    (runs / "calibrate" / "result.json").unlink()
    calibrate.run(micro_config("calibrate", runs, "--workers=2", "--group_params=1"))


def test_the_benchmark_counts_a_pass_of_the_teacher_for_each_group(expanded, capsys, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    calibration = importlib.import_module("calibration")
    library = {"E1": ["r1-full-full", "r0-full-pointwise"], "D1": ["r0-full-pointwise"]}
    monkeypatch.setattr(calibration, "surrogate_library", lambda *_: library)
    options = ["--preset", str(MICRO), "--steps", "2", "--num_threads", "1"]
    calibration.main(["--runs", str(expanded), *options])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["3", "2", "1"]
