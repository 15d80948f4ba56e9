"""An exported folder as a diffusers pipeline."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from tocsr.deploy.diffusers_pipeline import write_pipeline
from tocsr.deploy.upscaler import Upscaler
from tocsr.errors import TocsrError
from tocsr.models.sr import OneStepGenerator

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8))


@pytest.fixture(scope="module")
def folder(finished_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "model"
    generator = OneStepGenerator.from_pretrained(finished_runs / "distill" / "model")
    generator.save_pretrained(folder)
    write_pipeline(generator, folder)
    return folder


def test_the_pipeline_gives_what_the_upscaler_gives(folder):
    [image] = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)(PHOTO).images
    expected = Upscaler.from_pretrained(folder, backend="torch")(PHOTO)
    assert image.size == (4 * 56, 4 * 40)
    assert np.abs(np.asarray(image, int) - np.asarray(expected, int)).max() <= 1


def test_in_a_process_that_knows_nothing_of_tocsr_the_folder_is_enough(folder):
    code = (
        "import sys; from diffusers import DiffusionPipeline; from PIL import Image;"
        "pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True);"
        "print(pipe(Image.new('RGB', (20, 10)), seed=1, tile=8).images[0].size)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "(80, 40)", done.stderr


def test_without_a_word_about_code_diffusers_refuses_the_folder(folder):
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(folder)


def test_several_images_and_a_tensor(folder):
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    assert len(pipeline([PHOTO, PHOTO], seed=3).images) == 2
    tensor = torch.rand(1, 3, 16, 16)
    assert pipeline(tensor).images.shape == (1, 3, 64, 64)


def test_half_precision_is_refused_by_name(folder):
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True).to(torch.float16)
    with pytest.raises(TocsrError, match=r"float32, its weights are torch\.float16"):
        pipeline(PHOTO)
