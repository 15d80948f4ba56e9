"""benchmarks/one_step.py at micro size."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from micro import MICRO, micro_config
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from tocsr.data.degrade import degrade
from tocsr.data.images import to_tensor, to_uint8
from tocsr.deploy.metrics.psnr import psnr_y
from tocsr.diffusion import sample_noise
from tocsr.files import write_json
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.sr import OneStepGenerator
from tocsr.models.sr_starts import with_condition, with_prediction
from tocsr.models.vae import upsample

STUDENTS = ["clean", "+ all"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("one_step")


@pytest.fixture
def photos(tmp_path):
    """Two photos whose sides are no multiples of the network's."""
    folder = tmp_path / "hr"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        rough = Image.fromarray(rng.integers(0, 256, (20, 26, 3), dtype=np.uint8))
        rough.resize((131, 101), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def runs(tmp_path):
    """The `--runs` folder of an expand-unet and a train-sr that have learned nothing."""
    torch.manual_seed(0)
    unet = with_condition(base_unet(str(MICRO), latent_channels=16))
    with_prediction(unet, "clean").save_pretrained(tmp_path / "runs" / "train-sr" / "unet")
    vae = base_vae(str(MICRO), "vae_teacher")
    vae.save_pretrained(tmp_path / "runs" / "expand-unet" / "vae")
    for verb in ("expand-unet", "train-sr"):
        write_json(tmp_path / "runs" / verb / "result.json", {})
    return tmp_path / "runs"


@pytest.fixture
def measure(script, runs, photos, tmp_path, capsys):
    """Runs the script; the cells of its table, what it says below, and its progress."""

    def measure(*options):
        argv = ["--preset", str(MICRO), "--num_steps", "2", "--num_threads", "1", "--seeds", "0"]
        argv += ["--runs", str(runs), "--out", f"{tmp_path}/out", "--hr", str(photos)]
        argv += ["--metrics", "psnr-y", "stlpips", "--teacher_steps", "1", "3", *options]
        script.main(argv)
        out, err = capsys.readouterr()
        lines = [line for line in out.splitlines() if line.startswith("|")]
        return [[c.strip() for c in line.strip("|").split("|")] for line in lines], out, err

    return measure


def test_every_system_is_measured_and_a_second_call_trains_nothing(measure, tmp_path):
    rows, out, progress = measure("--students", *STUDENTS)
    assert rows[0] == ["system", "PSNR-Y", "seconds"]
    names = [row[0] for row in rows[2:]]
    assert names == ["bicubic", "teacher, 1 step", "teacher, 3 steps", *STUDENTS]
    assert "ST-LPIPS is not measured" in out
    assert "stlpips_alex.safetensors" in out
    assert "+ all, seed 0, distill 2/2" in progress
    assert progress.count("teacher sampling 2/2") == 1  # the second student reads the first one's
    again, _, progress = measure("--students", *STUDENTS)
    assert [row[:2] for row in again] == [row[:2] for row in rows]
    assert progress == ""


def test_bicubic_is_measured_as_a_saved_image(measure, photos):
    rows, _, _ = measure("--students", "--degradation", "bicubic")
    scores = []
    for index, name in enumerate("ab"):
        hr = np.asarray(Image.open(photos / f"{name}.png"))[:100, :128]
        lr = degrade(to_tensor(hr)[None], 4, "bicubic", 0, [index])
        scores.append(psnr_y(to_uint8(upsample(lr, 4)[0]), hr))
    assert rows[2][:2] == ["bicubic", f"{np.mean(scores):.3f}"]


def test_kept_results_are_those_that_were_measured(measure, photos, tmp_path):
    rows, _, _ = measure("--students", "clean", "--save", f"{tmp_path}/kept")
    folders = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert folders == ["bicubic", "clean", "teacher-1-step", "teacher-3-steps"]
    for name, row in zip(("bicubic", "clean"), (rows[2], rows[-1]), strict=True):
        scores = []
        for photo in "ab":
            hr = np.asarray(Image.open(photos / f"{photo}.png"))[:100, :128]
            scores.append(
                psnr_y(np.asarray(Image.open(tmp_path / "kept" / name / f"{photo}.png")), hr)
            )
        assert row[:2] == [name, f"{np.mean(scores):.3f}"]


def test_pairs_are_taken_by_name(measure, photos, tmp_path):
    (tmp_path / "lr").mkdir()
    for name in "ab":
        photo = Image.open(photos / f"{name}.png").crop((0, 0, 128, 100))
        photo.save(photos / f"{name}.png")
        photo.resize((32, 25), Image.Resampling.BICUBIC).save(tmp_path / "lr" / f"{name}.png")
    rows, _, _ = measure("--students", "--lr", f"{tmp_path}/lr")
    lr = to_tensor(np.asarray(Image.open(tmp_path / "lr" / "a.png")))[None]
    score = psnr_y(to_uint8(upsample(lr, 4)[0]), np.asarray(Image.open(photos / "a.png")))
    rows_of_one, _, _ = measure("--students", "--lr", f"{tmp_path}/lr", "--limit", "1")
    assert rows_of_one[2][1] == f"{score:.3f}" != rows[2][1]


def test_finished_models_are_measured_at_every_turn_of_their_dial(measure, runs, photos):
    measure("--students", "clean")
    model = next(runs.parent.glob("out/clean-0/distill/model"))
    rows, _, _ = measure("--students", "--models", f"mine={model}", "--fidelity", "0", "1")
    found = {row[0]: float(row[1]) for row in rows[2:]}
    student = OneStepGenerator.from_pretrained(model).eval()
    for fidelity in (0, 1):
        scores = []
        for index, name in enumerate("ab"):
            hr = np.asarray(Image.open(photos / f"{name}.png"))[:100, :128]
            lr = degrade(to_tensor(hr)[None], 4, "bicubic", 0, [index])
            image = upsample(F.pad(lr, (0, 0, 0, 7), mode="reflect"), 4)
            noise = sample_noise((16, 16, 16), 0, [index], "start")
            with torch.no_grad():
                result = student(image, noise, fidelity)[0, :, :100]
            scores.append(psnr_y(to_uint8(result), hr))
        assert found[f"mine, fidelity {fidelity}"] == pytest.approx(np.mean(scores), abs=6e-4)


def test_targets_are_shared_only_by_what_they_are_functions_of(script, tmp_path):
    def key(*options):
        return script.target_key(micro_config("distill", tmp_path, *options))

    assert key() == key("--pixel_weight=3", "--optim.num_steps=9", "--prediction=noise")
    others = ["--seed=1", "--clip=2", "--num_denoise_steps=5", "--data.crop=128", "--num_targets=4"]
    assert len({key(), *(key(option) for option in others)}) == 1 + len(others)
