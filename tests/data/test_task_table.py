"""The table of tasks, and configurations that take rows of it."""

import pytest
from micro import MICRO, micro_config

from tocsr.config import DataConfig, Source
from tocsr.errors import TocsrError
from tocsr.options import read_config
from tocsr.plans import plan_phase
from tocsr.preset_files import PRESETS
from tocsr.restoration import TaskConfig, task_rows

ROWS = list(task_rows())


def test_the_first_two_tasks_are_super_resolution_by_4_and_by_2():
    tasks = [TaskConfig(name=name) for name in ROWS[:2]]
    assert [(task.name, task.upscale) for task in tasks] == [("sr-x4", 4), ("sr-x2", 2)]
    assert TaskConfig() == tasks[0]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_gives_all_that_is_not_replaced(name):
    task, row = TaskConfig(name=name), task_rows()[name]
    assert (task.upscale, task.degradation) == (row.upscale, row.degradation)
    assert (task.condition, task.metrics) == (row.condition, row.metrics)
    assert TaskConfig(name=name, degradation="mild").upscale == row.upscale
    assert TaskConfig(name=name, upscale=8).degradation == row.degradation


@pytest.mark.parametrize("name", ROWS)
def test_the_help_names_every_task(name):
    assert name in TaskConfig.__doc__


def test_an_unknown_task_names_the_nearest():
    line = r"^no task is called 'sr-x3'; did you mean 'sr-x[24]'\?$"
    with pytest.raises(TocsrError, match=line):
        TaskConfig(name="sr-x3")


@pytest.mark.parametrize("upscale", [3, 16, -4])
def test_a_factor_that_does_not_divide_crops_is_refused(upscale):
    with pytest.raises(TocsrError, match=rf"task\.upscale must be 1, 2, 4 or 8, got {upscale}$"):
        TaskConfig(upscale=upscale)


@pytest.mark.parametrize("verb", ["train-sr", "distill"])
def test_a_task_named_on_the_command_line_brings_its_own_factor(verb, tmp_path):
    assert micro_config(verb, tmp_path, "--task.name=sr-x2").task == TaskConfig(name="sr-x2")


def test_what_a_preset_replaces_outlives_another_tasks_name(tmp_path):
    options = ["--preset=paper", f"--runs={tmp_path}", "--task.name=sr-x2"]
    task = read_config("train-sr", options)[0].task
    assert (task.upscale, task.degradation) == (2, "hard")


def test_what_is_replaced_in_a_file_is_replaced(tmp_path):
    (tmp_path / "mine.yaml").write_text("task: {name: sr-x2, degradation: mild}")
    config = micro_config("train-sr", tmp_path, f"--config={tmp_path / 'mine.yaml'}")
    assert config.task == TaskConfig(upscale=2, degradation="mild", name="sr-x2")


@pytest.mark.parametrize("preset", [*PRESETS.iterdir(), MICRO])
def test_the_phases_of_a_preset_restore_the_same(preset):
    tasks = [read_config(v, [f"--preset={preset}"])[0].task for v in ("train-sr", "distill")]
    assert tasks[0] == tasks[1]


def test_a_plan_says_what_is_restored_and_from_how_many_pairs(tmp_path):
    for half in ("hr", "lr"):
        (tmp_path / half).mkdir()
        for i in range(3):
            (tmp_path / half / f"{i}.png").touch()
    given = f"--data.sources=[{{path: {tmp_path}, limit: 0}}]"
    options = (given, "--task.name=sr-x2", "--task.degradation=mild")
    rows = plan_phase(micro_config("train-sr", tmp_path / "runs", *options), step=False)
    assert rows["data"] == {str(tmp_path): "3 pairs (100.0% of the samples)"}
    assert rows["task"] == {
        "name": "sr-x2",
        "upscale": 2,
        "degradation": "mild",
        "condition": "low-resolution",
        "metrics": "psnr-y, ssim-y, stlpips, niqe",
    }


def test_a_source_written_before_there_were_pairs_is_one_of_photos_alone():
    before = {"path": "data/photos", "weight": 1.0, "limit": 0}
    assert DataConfig(sources=[Source(**before)]).sources[0].lr == ""
