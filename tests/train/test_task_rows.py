"""Every task of the table, as the phases that restore photos take it."""

import json

import numpy as np
import pytest
import torch
from micro import MICRO, micro_config
from PIL import Image

from tocsr.data.degrade import degrade
from tocsr.data.images import Batch, Place
from tocsr.errors import TocsrError
from tocsr.files import write_json
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.sr import OneStepGenerator
from tocsr.models.vae import lr_to_latents
from tocsr.restoration import TaskConfig, task_rows
from tocsr.train import distill, train_sr
from tocsr.train.conditions import low_resolution, lr_latents

IMAGES = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
INDICES = [3, 5, 8, 13]
PLACES = [Place("x", 0, 0, False)] * 4
TASK = TaskConfig(name="sr-x2", degradation="mild")


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return base_vae(str(MICRO), "vae_teacher").requires_grad_(False)


def of_pairs(*paired: bool, side=32) -> Batch:
    """A batch with low-resolution images, of a colour of their own, in these samples."""
    lr = torch.full((4, 3, side, side), torch.nan)
    for i, has_lr in enumerate(paired):
        if has_lr:
            lr[i] = i / 10
    return Batch(IMAGES, INDICES, PLACES, lr)


@pytest.mark.parametrize("name", task_rows())
def test_the_condition_of_every_task_is_a_latent_of_the_photos_size(name, vae):
    task = TaskConfig(name=name)
    lr = degrade(IMAGES, task.upscale, task.degradation, 0, INDICES)
    expected = lr_to_latents(vae, lr, task.upscale)
    assert expected.shape == (4, 16, 8, 8)
    assert torch.equal(lr_latents(vae, Batch(IMAGES, INDICES, PLACES), task, 0), expected)


@pytest.mark.parametrize("upscale", [1, 2, 4, 8])
def test_every_factor_gives_a_low_resolution_of_its_size(upscale):
    task = TaskConfig(upscale=upscale)
    lr = low_resolution(Batch(IMAGES, INDICES, PLACES), task, 0)
    assert lr.shape == (4, 3, 64 // upscale, 64 // upscale)


def test_low_resolution_images_of_pairs_are_taken_as_they_are():
    batch = of_pairs(True, True, True, True)
    assert torch.equal(low_resolution(batch, TASK, 0), batch.lr)


def test_photos_beside_pairs_are_degraded_as_without_them():
    batch = of_pairs(True, False, False, True)
    lr = low_resolution(batch, TASK, 0)
    alone = low_resolution(Batch(IMAGES, INDICES, PLACES), TASK, 0)
    assert torch.equal(lr[[0, 3]], batch.lr[[0, 3]])
    assert torch.equal(lr[[1, 2]], alone[[1, 2]])


def test_a_batch_that_drew_no_pair_is_degraded():
    batch = of_pairs(False, False, False, False)
    alone = low_resolution(Batch(IMAGES, INDICES, PLACES), TASK, 0)
    assert torch.equal(low_resolution(batch, TASK, 0), alone)


def test_pairs_of_another_factor_than_the_tasks_are_refused(vae):
    line = r"^pairs must be of the task's factor 2, those in data\.sources are of 4; set task\.name"
    with pytest.raises(TocsrError, match=line):
        lr_latents(vae, of_pairs(False, False, False, False, side=16), TASK, 0)


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """The `--runs` folder of a finetune that has learned nothing."""
    runs = tmp_path_factory.mktemp("finetuned")
    torch.manual_seed(0)
    base_unet(str(MICRO), latent_channels=16).save_pretrained(runs / "finetune" / "unet")
    base_vae(str(MICRO), "vae_teacher").save_pretrained(runs / "expand-unet" / "vae")
    for verb in ("finetune", "expand-unet"):
        write_json(runs / verb / "result.json", {})
    return runs


@pytest.fixture(scope="module")
def trained(finetuned):
    """The same after train-sr and distill of photos by 2, a few steps each."""
    train_sr.run(micro_config("train-sr", finetuned, "--task.name=sr-x2"))
    distill.run(micro_config("distill", finetuned, "--task.name=sr-x2"))
    return finetuned


@pytest.mark.parametrize("verb", ["train-sr", "distill"])
def test_a_task_by_2_trains_to_its_last_step(trained, verb):
    lines = (trained / verb / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)


def test_a_model_of_a_task_by_2_says_so_and_runs(trained):
    model = OneStepGenerator.from_pretrained(trained / "distill" / "model").eval()
    assert model.facts.upscale == 2
    assert model.facts.degradation == "bicubic"
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64), torch.randn(1, 16, 8, 8)).shape == (1, 3, 64, 64)


def test_training_by_2_goes_on_only_as_the_same_task(trained):
    with pytest.raises(TocsrError, match=r"task\.name \(was sr-x2, now sr-x4\), task\.upscale"):
        train_sr.run(micro_config("train-sr", trained))


def test_train_sr_learns_from_pairs_and_photos_together(finetuned, tmp_path):
    rng = np.random.default_rng(0)
    for half, side in (("hr", 64), ("lr", 32)):
        (tmp_path / "pairs" / half).mkdir(parents=True)
        pixels = rng.integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pairs" / half / "0.png")
    for verb in ("finetune", "expand-unet"):
        (tmp_path / verb).symlink_to(finetuned / verb)
    sources = [{"path": str(tmp_path / "pairs")}, {"path": "builtin", "limit": 2}]
    options = ("--task.name=sr-x2", f"--data.sources={json.dumps(sources)}")
    result = train_sr.run(micro_config("train-sr", tmp_path, *options))
    assert np.isfinite(result["loss"])
