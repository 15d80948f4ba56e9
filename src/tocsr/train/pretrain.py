"""pretrain: base networks from scratch, where no Stable Diffusion is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tocsr.data.images import PhotoCrops, batches
from tocsr.devices import pick_device
from tocsr.diffusion import NoiseSchedule, denoising_loss, draws
from tocsr.models.folders import base_unet, base_vae, load_vae
from tocsr.models.local_autoencoder import LocalAutoencoder
from tocsr.models.starts import principal_start_
from tocsr.models.vae import encode, pixels_to_latents, reconstruct, reconstruction_loss
from tocsr.runs import phase
from tocsr.seeding import derive_seed
from tocsr.train.loop import fit

if TYPE_CHECKING:
    from tocsr.config import DataConfig
    from tocsr.data.images import Batch
    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder
    from tocsr.runs import Report, Run
    from tocsr.train.configs import PretrainConfig


def latent_denoising_loss(
    unet: CompactUNet, vae: Autoencoder, schedule: NoiseSchedule, batch: Batch, seed: int
) -> Tensor:
    """L_diff on a batch's latents, autoencoder frozen, noise and timesteps by index (Eq. 5)."""
    with torch.no_grad():
        clean = pixels_to_latents(vae, batch.images)
    noise, timestep = draws(schedule, clean, seed, batch.indices)
    return denoising_loss(unet, schedule, clean, noise, timestep, unet.config.prediction)


def sample_images(data: DataConfig, seed: int, num: int = 64) -> Tensor:
    """Crops (num, 3, crop, crop) in [-1, 1] that no training step sees."""
    crops = PhotoCrops(data, derive_seed(seed, "start"), num)
    return next(batches(crops, num, [0])).images


@torch.no_grad()
def measure_scale_(
    vae: Autoencoder, data: DataConfig, seed: int, device: torch.device, num_crops: int = 128
) -> None:
    """Sets the latents' shift and scale so that they have mean 0 and variance 1."""
    crops = PhotoCrops(data, derive_seed(seed, "scale"), num_crops)
    size = min(num_crops, 16)
    loader = batches(crops, size, range(num_crops // size))
    latents = torch.cat([encode(vae, batch.images.to(device)).float() for batch in loader])
    vae.register_to_config(
        shift_factor=float(latents.mean()), scaling_factor=float(1 / latents.std())
    )


def _train_vae(
    config: PretrainConfig, name: str, run: Run, device: torch.device, report: Report
) -> dict[str, float]:
    part = run.sub(name)
    if done := part.result():
        return done
    torch.manual_seed(derive_seed(config.seed, name))
    vae = base_vae(config.preset, name).to(device)
    if isinstance(vae, LocalAutoencoder):
        principal_start_(vae, sample_images(config.data, config.seed).to(device))
    norm = config.rec_norm
    figures = fit(
        part,
        f"pretrain {name}",
        {"vae": vae},
        lambda batch: {
            "loss": reconstruction_loss(reconstruct(vae, batch.images)[1], batch.images, norm)
        },
        data=config.data,
        optim=getattr(config, name),
        seed=config.seed,
        device=device,
        report=report,
    )
    measure_scale_(vae, config.data, config.seed, device, config.num_scale_crops)
    part.save(vae)
    return part.finish(figures)


def _train_unet(
    config: PretrainConfig, run: Run, device: torch.device, report: Report
) -> dict[str, float]:
    part = run.sub("unet")
    if done := part.result():
        return done
    vae = load_vae(run.folder / "vae").to(device).requires_grad_(False)
    torch.manual_seed(derive_seed(config.seed, "unet"))
    unet: CompactUNet = base_unet(config.preset).to(device)
    schedule = NoiseSchedule()
    figures = fit(
        part,
        "pretrain unet",
        {"unet": unet},
        lambda batch: {"loss": latent_denoising_loss(unet, vae, schedule, batch, config.seed)},
        data=config.data,
        optim=config.unet,
        seed=config.seed,
        device=device,
        report=report,
    )
    part.save(unet)
    return part.finish(figures)


@phase
def run(config: PretrainConfig, run: Run, report: Report) -> dict[str, Any]:
    """Trains the 4-channel autoencoder, the 16-channel one, and the 4-channel U-Net.

    Writes `vae/`, `vae_teacher/` and `unet/`.
    """
    device = pick_device(config.device, config.num_threads)
    return {
        "vae": _train_vae(config, "vae", run, device, report),
        "vae_teacher": _train_vae(config, "vae_teacher", run, device, report),
        "unet": _train_unet(config, run, device, report),
    }
