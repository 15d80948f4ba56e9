"""The losses of the remaining phases, in closed form."""

import dataclasses

import pytest
import torch
from micro import MICRO, micro_config

from tocsr.config import TaskConfig
from tocsr.data.degrade import degrade
from tocsr.data.images import Batch, Place
from tocsr.diffusion import NoiseSchedule, conditioned, ddim_sample
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.sr import with_condition, with_prediction
from tocsr.models.vae import lr_to_latents, pixels_to_latents
from tocsr.runs import Run, silent
from tocsr.train.conditions import lr_latents
from tocsr.train.distill import distillation_loss, start_noise, student_loss, teacher_targets
from tocsr.train.expand_unet import joint_loss

BATCH = Batch(
    torch.rand(2, 3, 64, 64) * 2 - 1, [0, 1], [Place("a", 0, 0, False), Place("b", 0, 0, False)]
)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return base_vae(str(MICRO), "vae_teacher").requires_grad_(False)


@pytest.fixture
def sr_unet():
    torch.manual_seed(0)
    unet = base_unet(str(MICRO), latent_channels=16)
    return with_condition(unet).eval().requires_grad_(False)


def test_a_student_that_says_what_the_teacher_says_has_no_loss():
    latent = torch.randn(2, 16, 8, 8)
    assert distillation_loss(latent, latent) == 0


def test_the_condition_is_the_degraded_photo_upsampled_and_encoded(vae):
    task = TaskConfig(upscale=2)
    expected = lr_to_latents(vae, degrade(BATCH.images, 2, "bicubic", 0, [0, 1]), 2)
    assert torch.equal(lr_latents(vae, BATCH, task, 0), expected)


@pytest.mark.parametrize("detach", [True, False])
def test_the_diffusion_loss_reaches_the_encoder_only_where_it_is_not_detached(tmp_path, detach):
    config = dataclasses.replace(
        micro_config("expand-unet", tmp_path), detach_latents=detach, vae_weight=0.0
    )
    vae = base_vae(str(MICRO), "vae_teacher")
    unet = base_unet(str(MICRO), latent_channels=16)
    target = pixels_to_latents(vae, BATCH.images).detach()
    joint_loss(config, unet, vae, None, target, NoiseSchedule(), BATCH)["loss"].backward()
    reached = any(p.grad is not None and p.grad.any() for p in vae.encoder.parameters())
    assert reached != detach


def test_the_targets_are_what_the_multi_step_teacher_samples(tmp_path, vae, sr_unet):
    config = micro_config("distill", tmp_path)
    targets = teacher_targets(config, sr_unet, vae, Run(tmp_path), torch.device("cpu"), silent)
    from tocsr.data.images import PhotoCrops, batches

    [batch] = batches(PhotoCrops(config.data, config.seed, 8), 1, [3])
    lr = lr_latents(vae, batch, config.task, config.seed)
    noise = start_noise(lr, config.seed, [3])
    sampled = ddim_sample(conditioned(sr_unet, lr), NoiseSchedule(), noise, 2, config.clip)
    # float16 on disk, and batches of another size
    torch.testing.assert_close(targets[3:4].float(), sampled, rtol=2e-3, atol=2e-3)


def test_the_clean_student_that_adds_nothing_is_as_far_as_the_condition(tmp_path, vae, sr_unet):
    config = dataclasses.replace(micro_config("distill", tmp_path), pixel_weight=0.0)
    sr_unet = with_prediction(sr_unet, "clean")
    targets = torch.randn(2, 16, 8, 8)
    loss = student_loss(config, sr_unet, vae, NoiseSchedule(), targets, BATCH)["loss"]
    lr = lr_latents(vae, BATCH, config.task, config.seed)
    expected = (lr - targets).square().mean()
    torch.testing.assert_close(loss, expected)


def test_the_pixel_loss_is_added_with_its_weight(tmp_path, vae, sr_unet):
    config = dataclasses.replace(micro_config("distill", tmp_path), pixel_weight=0.5)
    terms = student_loss(config, sr_unet, vae, NoiseSchedule(), torch.zeros(2, 16, 8, 8), BATCH)
    torch.testing.assert_close(terms["loss"], terms["distill"] + 0.5 * terms["pixel"])


def test_latents_of_images_do_not_depend_on_the_batch(vae):
    together = pixels_to_latents(vae, BATCH.images)
    # 1e-6: convolutions of another batch size may sum in another order
    torch.testing.assert_close(
        together[1:], pixels_to_latents(vae, BATCH.images[1:]), rtol=0, atol=1e-6
    )
