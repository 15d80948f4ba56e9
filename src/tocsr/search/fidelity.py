"""How far a candidate is from the teacher, on a fixed calibration set (Eqs. 11, 12)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tocsr.data.images import PhotoCrops, batches
from tocsr.diffusion import NoiseSchedule, add_noise, draws
from tocsr.models.cost import model_params
from tocsr.models.vae import pixels_to_latents
from tocsr.seeding import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        features: The teacher's tensors between stages, by port; empty where memory did not allow
            to keep them.
    """

    noisy: Tensor
    timestep: Tensor
    noise_pred: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """B."""
        return len(self.noisy)

    @property
    def features_bytes(self) -> int:
        """Memory of the features."""
        return sum(tensor.nbytes for tensor in self.features.values())


@torch.no_grad()
def capture_targets(
    teacher: CompactUNet,
    vae: Autoencoder,
    data: DataConfig,
    num_samples: int,
    batch_size: int,
    seed: int,
    features_mb: float = 0,
) -> list[Targets]:
    """The calibration set: crops, noise, timesteps and what the teacher makes of them, by seed.

    Args:
        teacher: The U-Net that candidates are held against.
        vae: Gives the latents.
        data: Photos and crops.
        num_samples: Samples, a multiple of `batch_size`.
        batch_size: B of each batch.
        seed: Of crops, noise and timesteps.
        features_mb: Memory for the teacher's features, in MiB; the first batches keep theirs, as
            many as fit.
    """
    schedule, seed = NoiseSchedule(), derive_seed(seed, "fidelity")
    crops = PhotoCrops(data, seed, num_samples)
    ports = {port.name for stage in teacher.stage_table for port in (*stage.inputs, *stage.outputs)}
    captured: list[Targets] = []
    left = features_mb * 2**20
    for batch in batches(crops, batch_size, range(num_samples // batch_size)):
        clean = pixels_to_latents(vae, batch.images.to(teacher.device))
        noise, timestep = draws(schedule, clean, seed, batch.indices)
        noisy = add_noise(schedule, clean, noise, timestep)
        record: dict[str, Tensor] = {}
        noise_pred = teacher(noisy, timestep, record=record)
        features = {name: tensor for name, tensor in record.items() if name in ports}
        targets = Targets(noisy, timestep, noise_pred, features)
        left -= targets.features_bytes
        captured.append(targets if left >= 0 else Targets(noisy, timestep, noise_pred))
    return captured


def mean_square(x: Tensor) -> float:
    """The mean of squares of (B, Z, h, w), in float64.

    First over the pixels: of a mean over everything at once the last bit depends on the number of
    threads.
    """
    return float(x.double().square().mean((2, 3)).mean())


def squared_error(noise_pred: Tensor, batch: Targets) -> float:
    """|| noise_T - noise_a ||^2 of one batch, the mean over elements."""
    return mean_square(noise_pred - batch.noise_pred)


def mean_error(errors: Iterable[float], num: int) -> float:
    """The sum of errors over `num`.

    Added one after the other: a sum of numbers that are at least 0 never falls in floating point
    either, so a candidate whose first errors exceed a bound exceeds it for certain.
    """
    return sum(errors) / num


@torch.no_grad()
def fidelity_gap(unet: CompactUNet, targets: list[Targets]) -> float:
    """F(a) = E || noise_T(z_t, t, c) - noise_a(z_t, t, c) ||^2, the mean over elements (Eq. 11).

    The plain way, of any network; `tocsr.search.prefixes.FidelityGap` gives the same number for a
    candidate in less time. Of velocities, where the networks predict those.
    """
    errors = [squared_error(unet(batch.noisy, batch.timestep), batch) for batch in targets]
    return mean_error(errors, len(targets))


def objectives(unet: CompactUNet, targets: list[Targets]) -> tuple[int, float]:
    """(P(a), F(a)), parameters and gap, both to be small (Eq. 12).

    The search makes the first as small as it can where the second is within a tolerance, or finds
    the front of both.
    """
    return model_params(unet), fidelity_gap(unet, targets)


def teacher_power(targets: list[Targets]) -> float:
    """E || noise_T ||^2, the unit of the relative gap."""
    powers = [mean_square(batch.noise_pred) for batch in targets]
    return mean_error(powers, len(powers))
