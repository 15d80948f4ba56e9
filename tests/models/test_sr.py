import pytest
import torch
from micro import MICRO

from tocsr.diffusion import NoiseSchedule, ddim_sample
from tocsr.errors import ExitCode, TocsrError
from tocsr.files import read_json, write_json
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.sr import (
    GeneratorFacts,
    OneStepGenerator,
    one_step,
    with_condition,
    with_prediction,
)

SCHEDULE = NoiseSchedule()
NOISE = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
LR = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(1))
FACTS = GeneratorFacts(
    upscale=4,
    degradation="bicubic",
    latent_channels=16,
    pixel_multiple=64,
    halo=128,
    local=True,
    prediction="noise",
    timestep=999,
)


@pytest.fixture
def unet():
    torch.manual_seed(0)
    return with_condition(base_unet(str(MICRO), latent_channels=16)).eval().requires_grad_(False)


@pytest.fixture
def generator(unet):
    return OneStepGenerator(base_vae(str(MICRO), "vae_teacher"), unet, FACTS).eval()


def test_the_clean_student_starts_from_the_condition(unet):
    student = with_prediction(unet, "clean")
    assert torch.equal(one_step(student, SCHEDULE, NOISE, LR), LR)


def test_the_student_of_the_paper_is_one_ddim_step(unet):
    sampled = ddim_sample(lambda z, t: unet(torch.cat([z, LR], 1), t), SCHEDULE, NOISE, 1)
    assert torch.equal(one_step(unet, SCHEDULE, NOISE, LR), sampled)


@torch.no_grad()
def test_a_saved_generator_comes_back_bitwise(generator, tmp_path):
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    generator.save_pretrained(tmp_path)
    again = OneStepGenerator.from_pretrained(tmp_path).eval()
    assert torch.equal(again(image, NOISE[:1]), generator(image, NOISE[:1]))


@torch.no_grad()
def test_the_result_is_within_the_range_of_images(generator):
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert generator(image, 100 * NOISE[:1]).abs().max() <= 1


def test_a_folder_of_a_later_schema_is_refused(generator, tmp_path):
    generator.save_pretrained(tmp_path)
    write_json(tmp_path / "upscaler.json", {**read_json(tmp_path / "upscaler.json"), "schema": 99})
    with pytest.raises(TocsrError, match="must have schema 1, got 99") as caught:
        OneStepGenerator.from_pretrained(tmp_path)
    assert caught.value.code == ExitCode.MODEL
