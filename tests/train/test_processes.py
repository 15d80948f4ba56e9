"""Two processes under torchrun, on the CPU: the same training as one, and no hang when one ends."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from micro import MICRO, micro_config
from PIL import Image
from safetensors.torch import load_file

from tocsr.config import DataConfig, Source
from tocsr.data.images import PhotoCrops
from tocsr.runs import read_result
from tocsr.train import expand_unet

SCRIPT = Path(__file__).parents[1] / "launched.py"
# Both sum the same float32 numbers in another order. Adam divides a gradient by its own size, so a
# weight whose gradient is little more than rounding may move differently, up to 8e-6 when measured.
# A step is 1e-3 long; a training on half as many samples ends 4e-3 away.
TOLERANCE = {"rtol": 0, "atol": 1e-4}


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a module or script in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_addr=127.0.0.1", f"--master_port={port}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def up_to_expand_vae(finished: Path, folder: Path) -> Path:
    for phase in ("pretrain", "expand-vae"):
        shutil.copytree(finished / phase, folder / phase)
    return folder


@pytest.fixture(scope="module")
def launched(finished_runs, tmp_path_factory):
    """What `launched.py` left; the killed training then goes on in this process alone."""
    runs = tmp_path_factory.mktemp("launched")
    for name in ("recipe", "split", "odd", "killed"):
        up_to_expand_vae(finished_runs, runs / name)
    done = launch(str(SCRIPT), str(runs))
    assert (runs / "dies").exists(), done.stderr
    (runs / "launch.json").write_text(json.dumps([done.returncode, time.time()]))
    torch.set_num_threads(1)
    expand_unet.run(micro_config("expand-unet", runs / "killed"))
    return runs


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


TRAINED = ["recipe", "split", "killed"]


@pytest.mark.parametrize("name", TRAINED)
def test_the_losses_are_those_of_one_process_with_the_same_batch(launched, finished_runs, name):
    expected = [r["loss"] for r in records(finished_runs / "expand-unet")]
    # 1e-5: means of four float32 losses, summed in another order
    losses = [r["loss"] for r in records(launched / name / "expand-unet")]
    assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("network", ["unet", "vae"])
@pytest.mark.parametrize("name", TRAINED)
def test_the_weights_are_those_of_one_process(launched, finished_runs, name, network):
    file = f"expand-unet/{network}/diffusion_pytorch_model.safetensors"
    expected, weights = load_file(finished_runs / file), load_file(launched / name / file)
    assert weights.keys() == expected.keys()
    for key, weight in weights.items():
        torch.testing.assert_close(weight, expected[key], **TOLERANCE)


def test_two_processes_trained(launched):
    trained = [path.parent for path in (launched / "recipe").rglob("metrics.jsonl")]
    late = [f for f in trained if not {"pretrain", "expand-vae"} & set(f.parts)]
    assert {f.name for f in late} >= {"expand-unet", "finetune", "train-sr", "distill"}
    assert {r["processes"] for folder in late for r in records(folder)} == {2}


def test_a_training_goes_on_with_another_number_of_processes(launched):
    steps = [(r["step"], r["processes"]) for r in records(launched / "killed" / "expand-unet")]
    assert steps == [(1, 2), (2, 2), (3, 1), (4, 1)]


def test_a_recipe_leaves_the_files_of_one_process(launched, finished_runs):
    def files(runs: Path) -> set[Path]:
        found = {path.relative_to(runs) for path in runs.rglob("*") if path.is_file()}
        return {path for path in found if path.parts[0] not in ("calibrate", "teacher-latents")}

    assert files(launched / "recipe") == files(finished_runs)
    surrogates = read_result(launched / "recipe" / "calibrate")["surrogates"]
    for name in surrogates:
        assert (launched / "recipe/calibrate/surrogates" / f"{name}.safetensors").is_file()


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("locked", "one process at a time may work in"),
        ("odd-batch", "a multiple of processes times accumulation, got 3, 2 and 1"),
    ],
)
def test_all_processes_learn_why_a_run_is_refused(launched, case, reason):
    said = [(launched / f"{case}.{rank}").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert reason in said[0]


def test_the_launch_ends_soon_after_the_main_process_dies(launched):
    code, ended = json.loads((launched / "launch.json").read_text())
    assert code != 0
    assert ended - (launched / "dies").stat().st_mtime < 30


def seed_whose_first_batch_gives(bad: str, rank: int, data: DataConfig) -> int:
    """A seed with which only process `rank` of two meets the photo `bad` in a first batch of 4."""
    for seed in range(1000):
        crops = PhotoCrops(data, seed, 4)
        met = [bad in crops[i][2].file for i in range(4)]
        if any(met[rank::2]) and not any(met[1 - rank :: 2]):
            return seed
    raise AssertionError


def test_an_error_of_one_process_is_said_once_and_ends_all(finished_runs, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("bad", "good"):
        Image.new("RGB", (80, 80)).save(photos / f"{name}.png")
    data = DataConfig(sources=[Source(path=str(photos))], crop=64)
    seed = seed_whose_first_batch_gives("bad.png", 1, data)
    (photos / "bad.png").write_bytes(b"no image")
    runs = up_to_expand_vae(finished_runs, tmp_path / "runs")
    done = launch(
        *("-m", "tocsr", "expand-unet", f"--preset={MICRO}", f"--runs={runs}", "--device=cpu"),
        *(f"--seed={seed}", f"--data.sources=[{{path: {photos}}}]"),
    )
    assert done.returncode != 0
    assert done.stderr.count("bad.png is not a readable image") == 1, done.stderr
    assert "exitcode  : 2" in done.stderr  # torchrun's account of the process that failed
    assert "]: Traceback" not in done.stderr  # of the other one
