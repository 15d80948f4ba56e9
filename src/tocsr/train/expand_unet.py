"""expand-unet: the U-Net for 16 latent channels, tuned jointly with its autoencoder (paper 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tocsr.devices import pick_device
from tocsr.diffusion import NoiseSchedule, denoising_loss, draws
from tocsr.models.compact import rebuilt
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.vae import latent_distillation_loss, pixels_to_latents
from tocsr.runs import phase, require_result
from tocsr.seeding import derive_seed
from tocsr.train.expand_vae import base_folder
from tocsr.train.loop import fit

if TYPE_CHECKING:
    from tocsr.data.images import Batch
    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder
    from tocsr.runs import Report, Run
    from tocsr.train.configs import ExpandUnetConfig


def joint_loss(
    config: ExpandUnetConfig,
    unet: CompactUNet,
    vae: Autoencoder,
    vae_teacher: Autoencoder,
    schedule: NoiseSchedule,
    batch: Batch,
) -> dict[str, Tensor]:
    """L_diff + w L_vae of U-Net and autoencoder together (Eqs. 5 and 4).

    Returns:
        `loss`, and its terms `diffusion`, `latent` and `rec`.
    """
    vae_terms = latent_distillation_loss(
        vae, vae_teacher, batch.images, config.rec_weight, config.rec_norm
    )
    with torch.set_grad_enabled(not config.detach_latents):
        clean = pixels_to_latents(vae, batch.images)
    noise, timestep = draws(schedule, clean, config.seed, batch.indices)
    prediction = unet.config.prediction
    diffusion = denoising_loss(unet, schedule, clean, noise, timestep, prediction)
    total = diffusion + config.vae_weight * vae_terms["loss"]
    return {**vae_terms, "diffusion": diffusion, "loss": total}


@phase
def run(config: ExpandUnetConfig, run: Run, report: Report) -> dict[str, Any]:
    """Widens the base U-Net's ends and trains it with the autoencoder; writes `unet/`, `vae/`."""
    require_result(config, "expand-vae")
    device = pick_device(config.device, config.num_threads)
    vae = load_vae(config.runs / "expand-vae" / "vae").to(device)
    vae_teacher = load_vae(base_folder(config, "vae_teacher")).to(device).requires_grad_(False)
    base = load_unet(base_folder(config, "unet"))
    torch.manual_seed(derive_seed(config.seed, config.verb))
    channels = vae.config.latent_channels
    unet = rebuilt(base, latent_channels=channels, adapter=config.adapter).to(device)
    schedule = NoiseSchedule()
    figures = fit(
        run,
        config.verb,
        {"unet": unet, "vae": vae},
        lambda batch: joint_loss(config, unet, vae, vae_teacher, schedule, batch),
        data=config.data,
        optim=config.optim,
        seed=config.seed,
        device=device,
        report=report,
    )
    unet.save_pretrained(run.folder / "unet")
    vae.save_pretrained(run.folder / "vae")
    return figures
