"""train-sr: the compact U-Net as a multi-step super-resolver (paper 3.3.1, algorithm 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tocsr.devices import pick_device
from tocsr.diffusion import NoiseSchedule, draws, sr_denoising_loss
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.sr_starts import with_condition, with_prediction
from tocsr.models.vae import pixels_to_latents
from tocsr.runs import phase, require_result
from tocsr.train.conditions import lr_latents
from tocsr.train.loop import fit

if TYPE_CHECKING:
    from tocsr.data.images import Batch
    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder
    from tocsr.runs import Report, Run
    from tocsr.train.sr_configs import TrainSrConfig


def sr_loss(
    config: TrainSrConfig,
    unet: CompactUNet,
    vae: Autoencoder,
    schedule: NoiseSchedule,
    batch: Batch,
) -> Tensor:
    """L_sr of a batch of photos, noise and timesteps by index (Eqs. 17, 19, 21)."""
    with torch.no_grad():
        clean = pixels_to_latents(vae, batch.images)
    lr_latent = lr_latents(vae, batch, config.task, config.seed)
    noise, timestep = draws(schedule, clean, config.seed, batch.indices)
    prediction = unet.config.prediction
    return sr_denoising_loss(unet, schedule, clean, lr_latent, noise, timestep, prediction)


@phase
def run(config: TrainSrConfig, run: Run, report: Report) -> dict[str, Any]:
    """Conditions the fine-tuned U-Net on z_LR and trains it; writes `unet/`."""
    require_result(config, "finetune")
    device = pick_device(config.device, config.num_threads)
    unet = with_condition(load_unet(config.runs / "finetune" / "unet"), config.condition_start)
    if config.prediction != "backbone":
        unet = with_prediction(unet, config.prediction)
    unet = unet.to(device)
    vae = load_vae(config.runs / "expand-unet" / "vae").to(device).requires_grad_(False)
    schedule = NoiseSchedule()
    figures = fit(
        run,
        config.verb,
        {"unet": unet},
        lambda batch: {"loss": sr_loss(config, unet, vae, schedule, batch)},
        data=config.data,
        optim=config.optim,
        seed=config.seed,
        device=device,
        report=report,
    )
    run.save(unet, "unet")
    return figures
