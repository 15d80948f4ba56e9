"""The model in the package: it is there, it is small, and its tiles join without a trace."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tocsr.deploy.metrics.psnr import psnr_y
from tocsr.deploy.upscaler import Upscaler
from tocsr.preset_files import SHIPPED_MODEL

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def upscaler() -> Upscaler:
    return Upscaler.from_pretrained(num_threads=1)


@pytest.fixture(scope="module")
def small() -> np.ndarray:
    photo = Image.open(REPOSITORY / "examples" / "colosseum.webp").convert("RGB")
    return np.asarray(photo.resize((192, 192), Image.Resampling.BICUBIC))


def test_its_files_are_below_32_megabytes():
    assert sum(p.stat().st_size for p in SHIPPED_MODEL.rglob("*") if p.is_file()) < 32e6


def test_its_card_is_in_the_package():
    assert "Trained on" in (SHIPPED_MODEL / "README.md").read_text()


def test_it_makes_a_photo_four_times_as_large(upscaler, small):
    assert upscaler(small).shape == (768, 768, 3)


def test_it_keeps_the_colours(upscaler, small):
    result = upscaler(small)
    reduced = np.asarray(Image.fromarray(result).resize((192, 192), Image.Resampling.BOX))
    # mean colours to 2 of 255 levels
    assert np.abs(reduced.mean((0, 1)) - small.mean((0, 1))).max() < 2


def test_a_tiled_result_is_the_whole_result(upscaler, small):
    assert psnr_y(upscaler(small, tile=64), upscaler(small)) > 45


def test_the_same_seed_gives_the_same_result(upscaler, small):
    crop = small[:64, :64]
    assert np.array_equal(upscaler(crop, seed=1), upscaler(crop, seed=1))


def test_its_graph_and_its_torch_weights_are_one_model(small):
    import torch

    from tocsr.data.images import to_tensor, to_uint8
    from tocsr.deploy.tiling import position_noise
    from tocsr.models.sr import OneStepGenerator
    from tocsr.models.vae import upsample

    crop = small[:64, :64]
    model = OneStepGenerator.from_pretrained(SHIPPED_MODEL).float().eval()
    noise = torch.from_numpy(position_noise(0, 0, 0, 32, 32, model.facts.latent_channels))
    with torch.no_grad():
        ours = to_uint8(model(upsample(to_tensor(crop)[None], 4), noise[None])[0])
    graph = Upscaler.from_pretrained(num_threads=1)(crop)
    assert np.abs(ours.astype(int) - graph).max() <= 1


def test_the_demo_writes_a_before_and_after_picture(tmp_path):
    command = [sys.executable, str(REPOSITORY / "examples" / "demo.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "demo" / "before_after.png").size == (3 * 768, 768 + 768 + 24)
