"""expand-unet: the U-Net for 16 latent channels, tuned jointly with its autoencoder (paper 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tocsr.devices import pick_device
from tocsr.diffusion import NoiseSchedule, denoising_loss, draws
from tocsr.models.compact import rebuilt
from tocsr.models.folders import load_latent_map, load_unet, load_vae
from tocsr.models.unet_starts import start_unet_
from tocsr.models.vae import reconstruct_with_loss
from tocsr.runs import phase, require_result
from tocsr.seeding import derive_seed
from tocsr.train.expand_vae import base_folder
from tocsr.train.loop import fit
from tocsr.train.pretrain import sample_images
from tocsr.train.teacher_latents import teacher_latents

if TYPE_CHECKING:
    from tocsr.data.images import Batch
    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder, LatentMap
    from tocsr.runs import Report, Run
    from tocsr.train.configs import ExpandUnetConfig


def joint_loss(
    config: ExpandUnetConfig,
    unet: CompactUNet,
    vae: Autoencoder,
    latent_map: LatentMap | None,
    target: Tensor,
    schedule: NoiseSchedule,
    batch: Batch,
) -> dict[str, Tensor]:
    """L_diff + w L_vae of U-Net and autoencoder together (Eqs. 5 and 4).

    Args:
        config: The weights, and whether the diffusion loss reaches the encoder.
        unet: Predicts what its configuration says.
        vae: E_S and D_S.
        latent_map: Between student and teacher; None where their channels agree.
        target: E_T(x), scaled.
        schedule: abar_t.
        batch: x.

    Returns:
        `loss`, and its terms `diffusion`, `latent` and `rec`.
    """
    clean, vae_terms = reconstruct_with_loss(
        vae, latent_map, target, batch.images, config.rec_weight, config.rec_norm
    )
    if config.detach_latents:
        clean = clean.detach()
    noise, timestep = draws(schedule, clean, config.seed, batch.indices)
    prediction = unet.config.prediction
    diffusion = denoising_loss(unet, schedule, clean, noise, timestep, prediction)
    total = diffusion + config.vae_weight * vae_terms["loss"]
    return {**vae_terms, "diffusion": diffusion, "loss": total}


def widened_unet(config: ExpandUnetConfig, vae: Autoencoder, device: torch.device) -> CompactUNet:
    """The base U-Net with ends for the latents of `vae`, started as the settings say."""
    base = load_unet(base_folder(config, "unet"), config.preset).to(device)
    torch.manual_seed(derive_seed(config.seed, config.verb))
    channels = vae.config.latent_channels
    unet = rebuilt(base, latent_channels=channels, adapter=config.adapter).to(device)
    if config.start != "random":
        base_vae = load_vae(base_folder(config, "vae"), config.preset).to(device)
        images = sample_images(config.data, config.seed).to(device)
        start_unet_(config.start, unet, base, vae, base_vae, images, config.seed)
    return unet


@phase
def run(config: ExpandUnetConfig, run: Run, report: Report) -> dict[str, Any]:
    """Widens the base U-Net's ends and trains it with the autoencoder; writes `unet/`, `vae/`."""
    require_result(config, "expand-vae")
    device = pick_device(config.device, config.num_threads)
    expanded = config.runs / "expand-vae"
    vae = load_vae(expanded / "vae").to(device)
    vae_teacher = load_vae(base_folder(config, "vae_teacher"), config.preset, "vae_teacher")
    vae_teacher = vae_teacher.to(device).requires_grad_(False)
    unet = widened_unet(config, vae, device)
    latent_map = load_latent_map(expanded / "latent_map")
    trained: dict[str, nn.Module] = {"unet": unet, "vae": vae}
    if latent_map:
        trained["latent_map"] = latent_map.to(device)
    target_of, data = teacher_latents(config, vae_teacher)
    schedule = NoiseSchedule()
    figures = fit(
        run,
        config.verb,
        trained,
        lambda batch: joint_loss(config, unet, vae, latent_map, target_of(batch), schedule, batch),
        data=data,
        optim=config.optim,
        seed=config.seed,
        device=device,
        report=report,
    )
    run.save(unet, "unet")
    run.save(vae, "vae")
    return figures
