"""Noising, denoising loss and DDIM sampling (Eqs. 5, 16, 18, 20 to 22).

Legend: B batch, Z latent channels, h w latent size. Latents are scaled to about unit variance.
Predictions go through float32: at the last timestep 1 / sqrt(abar_T) is about 14.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tocsr.seeding import derive_seed, numpy_rng

# (latent (B, Z', h, w), timestep (B,)) -> prediction (B, Z, h, w)
Denoiser = Callable[[Tensor, Tensor], Tensor]

# What a U-Net predicts: the noise, as in the paper. Not in the paper: the velocity
# sqrt(abar_t) noise - sqrt(1 - abar_t) z_0 (Salimans & Ho 2022), or the clean latent z_0, where
# there is a condition as what z_LR lacks of it. From these z_0 follows without a division, so
# that little training suffices at the last timestep.
Prediction = Literal["noise", "velocity", "clean"]


@dataclass(frozen=True)
class NoiseSchedule:
    """Stable Diffusion's "scaled linear" schedule: sqrt(beta) rises linearly.

    Args:
        num_timesteps: T, timesteps in training.
        beta_start: beta_1.
        beta_end: beta_T.
    """

    num_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012

    @cached_property
    def alphas_cumprod(self) -> Tensor:
        """abar_t for t = 0..T-1, float32 (T,), falling from nearly 1."""
        roots = torch.linspace(
            self.beta_start**0.5, self.beta_end**0.5, self.num_timesteps, dtype=torch.float32
        )
        return torch.cumprod(1 - roots**2, dim=0)

    @property
    def last_timestep(self) -> int:
        """T - 1, the timestep of pure noise."""
        return self.num_timesteps - 1

    def alpha_bar(self, timestep: Tensor) -> Tensor:
        """abar_t as (B, 1, 1, 1) on the device of `timestep` (B,)."""
        return self.alphas_cumprod.to(timestep.device)[timestep].view(-1, 1, 1, 1)

    def trailing_timesteps(self, num_denoise_steps: int) -> list[int]:
        """Timesteps of a sampling run, from T - 1 down, evenly spaced ("trailing" spacing)."""
        ratio = self.num_timesteps / num_denoise_steps
        return [round(self.num_timesteps - i * ratio) - 1 for i in range(num_denoise_steps)]


def sample_noise(shape: tuple[int, ...], seed: int, indices: list[int], purpose: str) -> Tensor:
    """Standard normal noise (len(indices), *shape), each sample a function of (seed, index)."""
    generator = torch.Generator()
    return torch.stack(
        [
            torch.randn(shape, generator=generator.manual_seed(derive_seed(seed, purpose, index)))
            for index in indices
        ]
    )


def sample_timesteps(schedule: NoiseSchedule, seed: int, indices: list[int]) -> Tensor:
    """Uniform timesteps (len(indices),) in 0..T-1, each a function of (seed, index)."""
    draws = [
        int(numpy_rng(seed, "timestep", index).integers(schedule.num_timesteps))
        for index in indices
    ]
    return torch.tensor(draws)


def draws(
    schedule: NoiseSchedule, clean: Tensor, seed: int, indices: list[int]
) -> tuple[Tensor, Tensor]:
    """Noise and timestep of each sample, for latents like `clean`."""
    noise = sample_noise(tuple(clean.shape[1:]), seed, indices, "noise").to(clean.device)
    return noise, sample_timesteps(schedule, seed, indices).to(clean.device)


def add_noise(schedule: NoiseSchedule, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) noise (Eq. 18)."""
    alpha_bar = schedule.alpha_bar(timestep)
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def denoising_loss(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    clean: Tensor,
    noise: Tensor,
    timestep: Tensor,
    prediction: Prediction = "noise",
) -> Tensor:
    """L_diff = E || noise - noise_theta(z_t, t, c) ||^2, the mean over elements (Eqs. 5, 16).

    Args:
        denoise: The U-Net with its condition c bound.
        schedule: abar_t.
        clean: z_0 (B, Z, h, w).
        noise: Standard normal (B, Z, h, w).
        timestep: (B,) in 0..T-1.
        prediction: What the U-Net predicts, and so what it is held against.
    """
    predicted = denoise(add_noise(schedule, clean, noise, timestep), timestep)
    match prediction:
        case "noise":
            target = noise
        case "velocity":
            target = velocity(schedule, clean, noise, timestep)
        case "clean":
            target = clean
    return F.mse_loss(predicted.float(), target)


def velocity(schedule: NoiseSchedule, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """v_t = sqrt(abar_t) noise - sqrt(1 - abar_t) z_0."""
    alpha_bar = schedule.alpha_bar(timestep)
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean


def sr_denoising_loss(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    clean: Tensor,
    lr_latent: Tensor,
    noise: Tensor,
    timestep: Tensor,
    prediction: Prediction = "noise",
) -> Tensor:
    """L_sr = E || noise - noise_theta(z_t, t, z_LR) ||^2, the mean over elements (Eq. 21)."""
    joined = conditioned(denoise, lr_latent, prediction)
    return denoising_loss(joined, schedule, clean, noise, timestep, prediction)


def conditioned(denoise: Denoiser, lr_latent: Tensor, prediction: Prediction = "noise") -> Denoiser:
    """noise_theta(z_t, t, z_LR): the two latents concatenated along channels (Eq. 20).

    Args:
        denoise: A U-Net that takes 2 Z channels.
        lr_latent: z_LR (B, Z, h, w).
        prediction: What the U-Net predicts; to `clean` z_LR is added.
    """

    def joined(noisy: Tensor, timestep: Tensor) -> Tensor:
        predicted = denoise(torch.cat([noisy, lr_latent], dim=1), timestep)
        return lr_latent + predicted.float() if prediction == "clean" else predicted

    return joined


def predict_clean(
    schedule: NoiseSchedule,
    noisy: Tensor,
    predicted: Tensor,
    timestep: Tensor,
    prediction: Prediction = "noise",
) -> Tensor:
    """z_0 = (z_t - sqrt(1 - abar_t) noise_pred) / sqrt(abar_t), float32 (Eq. 18 solved for z_0).

    From a velocity, z_0 = sqrt(abar_t) z_t - sqrt(1 - abar_t) v_pred.
    """
    if prediction == "clean":
        return predicted.float()
    alpha_bar = schedule.alpha_bar(timestep)
    if prediction == "velocity":
        return alpha_bar.sqrt() * noisy.float() - (1 - alpha_bar).sqrt() * predicted.float()
    return (noisy.float() - (1 - alpha_bar).sqrt() * predicted.float()) / alpha_bar.sqrt()


@torch.no_grad()
def ddim_sample(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    start_noise: Tensor,
    num_denoise_steps: int,
    clip: float = 0.0,
    prediction: Prediction = "noise",
) -> Tensor:
    """The clean latent that deterministic DDIM reaches from `start_noise` (the target of Eq. 23).

    Args:
        denoise: The U-Net with its condition bound.
        schedule: abar_t.
        start_noise: z_T (B, Z, h, w), standard normal.
        num_denoise_steps: Calls of the U-Net.
        clip: Not in the paper: bound on |z_0| of each step's estimate, in latent standard
            deviations; keeps the 14.6-fold error of the first steps from running away. 0 is off.
        prediction: What the U-Net predicts.

    Returns:
        z_0 (B, Z, h, w), float32.
    """
    timesteps = schedule.trailing_timesteps(num_denoise_steps)
    noisy = start_noise.float()
    for now, following in zip(timesteps, [*timesteps[1:], None], strict=True):
        timestep = torch.full((len(noisy),), now, device=noisy.device)
        clean = predict_clean(schedule, noisy, denoise(noisy, timestep), timestep, prediction)
        if clip:
            clean = clean.clamp(-clip, clip)
        if following is None:
            return clean
        alpha_bar = schedule.alpha_bar(timestep)
        noise_pred = (noisy - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
        noisy = add_noise(schedule, clean, noise_pred, torch.full_like(timestep, following))
    raise ValueError(f"num_denoise_steps must be at least 1, got {num_denoise_steps}")
