"""The losses of the remaining phases, in closed form."""

import dataclasses

import pytest
import torch
from micro import MICRO, micro_config

from tocsr.data.degrade import degrade
from tocsr.data.images import Batch, Place
from tocsr.diffusion import NoiseSchedule
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.vae import lr_to_latents, pixels_to_latents
from tocsr.restoration import TaskConfig
from tocsr.train.conditions import lr_latents
from tocsr.train.expand_unet import joint_loss

BATCH = Batch(
    torch.rand(2, 3, 64, 64) * 2 - 1, [0, 1], [Place("a", 0, 0, False), Place("b", 0, 0, False)]
)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return base_vae(str(MICRO), "vae_teacher").requires_grad_(False)


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


def test_latents_of_images_do_not_depend_on_the_batch(vae):
    together = pixels_to_latents(vae, BATCH.images)
    # 1e-6: convolutions of another batch size may sum in another order
    torch.testing.assert_close(
        together[1:], pixels_to_latents(vae, BATCH.images[1:]), rtol=0, atol=1e-6
    )
