import dataclasses

import pytest
import torch
from micro import MICRO

from tocsr.diffusion import NoiseSchedule, conditioned, ddim_sample, sample_noise
from tocsr.errors import ExitCode, TocsrError
from tocsr.files import read_json, write_json
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.sr import (
    GeneratorFacts,
    MultiStepGenerator,
    OneStepGenerator,
    one_step,
    super_resolve,
)
from tocsr.models.sr_starts import with_condition, with_prediction
from tocsr.models.vae import latents_to_pixels, pixels_to_latents, upsample

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
def clean_generator(unet):
    """A generator whose dial can be turned, and whose noise makes a difference."""
    student = with_prediction(unet, "clean")
    torch.nn.init.normal_(student.conv_out.weight, std=0.1)
    vae = base_vae(str(MICRO), "vae_teacher")
    return OneStepGenerator(vae, student, dataclasses.replace(FACTS, prediction="clean")).eval()


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.fixture
def generator(unet):
    return OneStepGenerator(base_vae(str(MICRO), "vae_teacher"), unet, FACTS).eval()


def test_the_clean_student_starts_from_the_condition(unet):
    student = with_prediction(unet, "clean")
    assert torch.equal(one_step(student, SCHEDULE, NOISE, LR), LR)


def test_with_zeros_at_both_ends_no_gradient_comes_from_the_condition(unet):
    """And with the backbone's weights copied one does, which is why they are."""

    def gradient(start):
        backbone = base_unet(str(MICRO), latent_channels=16)
        student = with_prediction(with_condition(backbone, start), "clean").requires_grad_(True)
        optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
        images = [torch.full_like(LR, level) for level in (-1.0, 1.0)]
        before = student.conv_out.weight.clone()
        for lr in images:  # the same change is asked for of each, whatever it shows
            loss = (one_step(student, SCHEDULE, NOISE, lr) - 2 * lr).square().mean()
            loss.backward()
        optimizer.step()
        return (student.conv_out.weight - before).norm()

    assert gradient("zero") < 1e-6
    assert gradient("copied") > 1e-3


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


def test_under_bf16_the_division_by_sqrt_alpha_bar_is_in_float32(unet):
    with torch.autocast("cpu", torch.bfloat16):
        student = one_step(unet, SCHEDULE, NOISE, LR)
        noise_pred = unet(torch.cat([NOISE, LR], dim=1), torch.tensor([999, 999]))
    assert noise_pred.dtype == torch.bfloat16
    assert student.dtype == torch.float32
    alpha_bar = SCHEDULE.alphas_cumprod[999].double()
    exact = (NOISE.double() - (1 - alpha_bar).sqrt() * noise_pred.double()) / alpha_bar.sqrt()
    # float32's rounding of numbers of about 14.6; in bfloat16 it would be 0.06
    torch.testing.assert_close(student.double(), exact, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_dial_at_0_is_the_model_as_trained(clean_generator, image):
    assert torch.equal(clean_generator(image, NOISE), clean_generator(image, NOISE, fidelity=0))


@torch.no_grad()
def test_the_dial_takes_the_noise_away(clean_generator, image):
    half = clean_generator(image, NOISE, fidelity=0.5)
    assert torch.equal(half, clean_generator(image, 0.5 * NOISE))
    full = clean_generator(image, NOISE, fidelity=1)
    assert torch.equal(full, clean_generator(image, 2 * NOISE, fidelity=1))
    assert not torch.equal(full, half)


@pytest.mark.parametrize("fidelity", [-0.1, 1.5])
def test_a_dial_out_of_range_is_refused(clean_generator, image, fidelity):
    with pytest.raises(TocsrError, match=f"fidelity must be from 0 to 1, got {fidelity}"):
        clean_generator(image, NOISE, fidelity)


def test_a_model_that_predicts_the_noise_has_no_dial(generator, image):
    with pytest.raises(TocsrError, match=r"a model that predicts the noise, got 0\.5"):
        generator(image, NOISE, 0.5)


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["noise", "velocity", "clean"])
def test_the_multi_step_system_of_one_step_is_the_one_step_generator(
    generator, unet, image, prediction
):
    unet = with_prediction(unet, prediction)
    one = OneStepGenerator(generator.vae, unet, FACTS)
    assert torch.equal(MultiStepGenerator(generator.vae, unet, 1)(image, NOISE), one(image, NOISE))


@torch.no_grad()
def test_the_multi_step_system_encodes_samples_and_decodes(generator, unet, image):
    vae = generator.vae
    denoise = conditioned(unet, pixels_to_latents(vae, image))
    expected = latents_to_pixels(vae, ddim_sample(denoise, SCHEDULE, NOISE, 4, 3.0)).clamp(-1, 1)
    assert torch.equal(MultiStepGenerator(vae, unet, 4, 3.0)(image, NOISE), expected)


@pytest.mark.parametrize("size", [(16, 32), (21, 30)])
def test_images_of_any_size_are_super_resolved_by_seed_and_index(clean_generator, size):
    lr = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3)) * 2 - 1
    result = super_resolve(clean_generator, lr, 4, 0, [5, 6])
    assert result.shape == (2, 3, 4 * size[0], 4 * size[1])
    # 1e-5: convolutions of another batch size may sum in another order
    alone = super_resolve(clean_generator, lr[1:], 4, 0, [6])
    torch.testing.assert_close(result[1:], alone, rtol=0, atol=1e-5)
    assert not torch.equal(alone, super_resolve(clean_generator, lr[1:], 4, 1, [6]))


@torch.no_grad()
def test_an_image_that_needs_no_border_goes_in_as_it_is(clean_generator):
    lr = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    noise = sample_noise((16, 8, 16), 7, [9], "start")
    expected = clean_generator(upsample(lr, 4), noise)
    assert torch.equal(super_resolve(clean_generator, lr, 4, 7, [9]), expected)
