"""How far a candidate's samples are from the teacher's, when both start from the same noise.

Not in the paper, which reports FID against the base model: FID needs the Inception network. Here
the features are those of our own autoencoder, so the numbers compare candidates of one search and
nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tocsr.diffusion import NoiseSchedule, ddim_sample, sample_noise
from tocsr.models.frechet import Moments
from tocsr.models.frechet import frechet_distance as distance_of_moments
from tocsr.models.vae import latents_to_pixels, pixels_to_latents

if TYPE_CHECKING:
    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder

LABEL = (
    "Frechet distance on our autoencoder's features between samples of the candidate and of the "
    "teacher from the same noise; not FID"
)


def frechet_distance(features: Tensor, others: Tensor) -> float:
    """The Frechet distance of two samples (N, F) and (N', F), as `tocsr.models.frechet` has it."""
    one, other = (Moments(sample.shape[1]).add_(sample) for sample in (features, others))
    return distance_of_moments(one, other)


@torch.no_grad()
def sample_features(
    unet: CompactUNet,
    vae: Autoencoder,
    side: int,
    num_samples: int,
    batch_size: int,
    num_denoise_steps: int,
    seed: int,
) -> Tensor:
    """What the autoencoder's encoder makes of images that a U-Net draws from noise.

    Args:
        unet: Draws latents by DDIM.
        vae: Decodes them, and encodes the images, clipped to [-1, 1].
        side: h and w of the latents.
        num_samples: N; sample i starts from the same noise whatever the network.
        batch_size: Samples computed at once.
        num_denoise_steps: Steps of DDIM.
        seed: Of the noise.

    Returns:
        (N, 2 Z), float64: the mean and the standard deviation of each latent channel over space.
    """
    schedule, prediction = NoiseSchedule(), unet.config.prediction
    rows = []
    for first in range(0, num_samples, batch_size):
        indices = list(range(first, min(first + batch_size, num_samples)))
        shape = (unet.latent_channels, side, side)
        noise = sample_noise(shape, seed, indices, "frechet").to(unet.device)
        clean = ddim_sample(unet, schedule, noise, num_denoise_steps, prediction=prediction)
        images = latents_to_pixels(vae, clean).clamp(-1, 1)
        latents = pixels_to_latents(vae, images).double()
        rows.append(torch.cat([latents.mean((2, 3)), latents.std((2, 3))], dim=1))
    return torch.cat(rows).cpu()
