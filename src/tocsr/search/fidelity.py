"""How far a candidate is from the teacher, on a fixed calibration set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tocsr.data.images import PhotoCrops, batches
from tocsr.diffusion import NoiseSchedule, add_noise, draws
from tocsr.models.cost import model_params
from tocsr.models.vae import pixels_to_latents
from tocsr.seeding import derive_seed

if TYPE_CHECKING:
    from tocsr.config import DataConfig
    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder


@dataclass(frozen=True)
class Targets:
    """One batch of the calibration set, with fixed noise and timesteps.

    Args:
        noisy: z_t (B, Z, h, w).
        timestep: t (B,).
        noise_pred: The teacher's prediction noise_T (B, Z, h, w).
    """

    noisy: Tensor
    timestep: Tensor
    noise_pred: Tensor


@torch.no_grad()
def capture_targets(
    teacher: CompactUNet,
    vae: Autoencoder,
    data: DataConfig,
    num_samples: int,
    batch_size: int,
    seed: int,
) -> list[Targets]:
    """The calibration set: crops, noise, timesteps and the teacher's predictions, by seed."""
    schedule, seed = NoiseSchedule(), derive_seed(seed, "fidelity")
    crops = PhotoCrops(data, seed, num_samples)
    captured = []
    for batch in batches(crops, batch_size, range(num_samples // batch_size)):
        clean = pixels_to_latents(vae, batch.images.to(teacher.device))
        noise, timestep = draws(schedule, clean, seed, batch.indices)
        noisy = add_noise(schedule, clean, noise, timestep)
        captured.append(Targets(noisy, timestep, teacher(noisy, timestep)))
    return captured


@torch.no_grad()
def fidelity_gap(unet: CompactUNet, targets: list[Targets]) -> float:
    """F(a) = E || noise_T(z_t, t, c) - noise_a(z_t, t, c) ||^2, the mean over elements (Eq. 11).

    Of velocities, where the networks predict those.
    """
    errors = [
        (unet(batch.noisy, batch.timestep) - batch.noise_pred).double().square().mean()
        for batch in targets
    ]
    return float(torch.stack(errors).mean())


def objectives(unet: CompactUNet, targets: list[Targets]) -> tuple[int, float]:
    """(P(a), F(a)), parameters and gap, both to be small (Eq. 12).

    The search makes the first as small as it can where the second is within a tolerance.
    """
    return model_params(unet), fidelity_gap(unet, targets)


def teacher_power(targets: list[Targets]) -> float:
    """E || noise_T ||^2, the unit of the relative gap."""
    return float(torch.stack([t.noise_pred.double().square().mean() for t in targets]).mean())
