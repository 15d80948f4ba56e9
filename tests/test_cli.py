"""What a person sees: one clear line, and an exit code that means something."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from micro import MICRO

from tocsr.cli import main
from tocsr.errors import ExitCode, did_you_mean, is_out_of_space
from tocsr.options import read_config


def said(capsys) -> str:
    return capsys.readouterr().err.strip()


def test_no_argument_shows_the_verbs_and_is_a_usage_error(capsys):
    assert main([]) == ExitCode.USAGE
    assert "expand-unet" in capsys.readouterr().out


def test_help_is_no_error(capsys):
    assert main(["--help"]) == ExitCode.OK
    assert "Exit codes" in capsys.readouterr().out


def test_an_unknown_verb_names_the_nearest(capsys):
    assert main(["calibrat"]) == ExitCode.USAGE
    assert said(capsys) == "tocsr: no verb 'calibrat'; did you mean 'calibrate'?"


def test_an_unknown_option_names_the_nearest(capsys):
    assert main(["finetune", "--optim.lrr", "1"]) == ExitCode.USAGE
    assert "unknown option '--optim.lrr', did you mean '--optim.lr'?" in said(capsys)


def test_an_unknown_key_in_a_file_names_the_nearest(capsys, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("optim: {num_step: 3}")
    assert main(["finetune", "--config", str(config)]) == ExitCode.USAGE
    assert said(capsys) == (
        f"tocsr: {config}: unknown option 'optim.num_step'; did you mean 'num_steps'?"
    )


def test_a_value_of_the_wrong_type_is_one_line(capsys):
    assert main(["finetune", "--optim.num_steps", "many"]) == ExitCode.USAGE
    assert said(capsys).count("\n") == 0


def test_a_value_out_of_range_says_what_must_hold(capsys):
    assert main(["finetune", "--optim.num_steps", "0"]) == ExitCode.USAGE
    assert "num_steps must be at least 1, got 0" in said(capsys)


@pytest.mark.parametrize("value", ["optim: {schedule: foo}", "optim: {lr: many}", "seed: abc"])
def test_a_value_in_a_file_is_checked_like_an_option(capsys, tmp_path, value):
    config = tmp_path / "mine.yaml"
    config.write_text(value)
    assert main(["finetune", "--config", str(config)]) == ExitCode.USAGE
    assert "Expected a" in said(capsys)


def test_a_negative_seed_is_refused(capsys):
    assert main(["finetune", "--seed=-1"]) == ExitCode.USAGE
    assert "seed must be at least 0, got -1" in said(capsys)


def test_an_unknown_preset_names_the_shipped_ones(capsys):
    assert main(["finetune", "--preset", "tinny"]) == ExitCode.USAGE
    assert "no preset and no folder is called 'tinny'; did you mean 'tiny'?" in said(capsys)


def test_options_beat_the_file_and_the_file_beats_the_preset(tmp_path):
    from tocsr.options import read_config

    config = tmp_path / "mine.yaml"
    config.write_text("optim: {lr: 0.5, batch_size: 7}")
    argv = [f"--preset={MICRO}", f"--config={config}", "--optim.lr=0.25"]
    optim = read_config("finetune", argv)[0].optim
    assert (optim.lr, optim.batch_size, optim.num_steps) == (0.25, 7, 4)


def test_an_unusable_device_is_a_usage_error(capsys, tmp_path):
    arguments = ["pretrain", f"--preset={MICRO}", f"--runs={tmp_path}", "--device=tpu"]
    assert main(arguments) == ExitCode.USAGE
    assert "device 'tpu' cannot be used" in said(capsys)


def test_a_phase_that_lacks_its_forerunner_is_a_model_error(capsys, tmp_path):
    assert main(["distill", f"--preset={MICRO}", f"--runs={tmp_path}"]) == ExitCode.MODEL


def test_a_dry_run_touches_nothing(capsys, tmp_path):
    assert main(["recipe", f"--preset={MICRO}", f"--runs={tmp_path / 'r'}", "--dry-run"]) == 0
    assert "distill" in capsys.readouterr().out
    assert not (tmp_path / "r").exists()


def test_two_processes_cannot_work_in_one_run_folder(capsys, tmp_path):
    from micro import micro_config

    from tocsr.runs import Run

    with Run.open(micro_config("pretrain", tmp_path)):
        code = main(["pretrain", f"--preset={MICRO}", f"--runs={tmp_path}"])
    assert code == ExitCode.USAGE
    assert "one process at a time" in said(capsys)


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_a_full_disk_is_a_resource_error_and_leaves_no_half_file(tmp_path):
    command = [sys.executable, "-m", "tocsr", "pretrain", f"--preset={MICRO}", f"--runs={tmp_path}"]
    done = subprocess.run(
        command,
        preexec_fn=limit_file_size,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.RESOURCES, done.stderr
    assert "Traceback" not in done.stderr
    left = [p for p in Path(tmp_path).rglob("*") if p.suffix in (".part", ".safetensors")]
    assert left == []


@pytest.mark.parametrize("code", [27, 28, 122], ids=["EFBIG", "ENOSPC", "EDQUOT"])
def test_running_out_of_space_is_recognised_through_wrappers(code):
    error = RuntimeError("library")
    error.__cause__ = OSError(code, "no")
    assert is_out_of_space(error)


def test_running_out_of_memory_is_a_resource_error(capsys, monkeypatch):
    import torch

    def runs_out(*_):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr("tocsr.cli.run_verb", runs_out)
    assert main(["profile"]) == ExitCode.RESOURCES
    assert "memory ran out" in said(capsys)


def test_other_errors_are_not_taken_for_a_full_disk():
    assert not is_out_of_space(PermissionError(13, "no"))


def test_a_name_near_none_lists_all():
    assert did_you_mean("xyz", ["b", "a"]) == "known are: a, b"


def test_short_options_and_bare_switches_are_understood():
    from tocsr.options import read_config

    config = read_config("upscale", ["a.png", "--overwrite", "-o", "out", "-t", "64"])[0]
    assert (config.overwrite, config.output, config.tile) == (True, Path("out"), 64)
    assert config.inputs == [Path("a.png")]


def test_several_values_of_one_option_are_words_or_a_list():
    told = ["--hr=a", "--sr", "b", "c", "--seed=1"]
    config, _ = read_config("evaluate", told)
    assert config.sr == (Path("b"), Path("c"))
    assert config.seed == 1
    assert read_config("evaluate", ["--hr=a", "--sr=[b,c]", "--seed=1"])[0] == config
