"""What may stand beside Eq. 23 in the one-step student's loss. Not in the paper.

    loss = distill_weight distill + pixel_weight pixel + perceptual_weight perceptual
         + latent_weight latent + grid_weight grid
         + adversarial_weight (adversarial + discriminator)

A term whose weight is 0 is not computed. The discriminator's own term has the weight of the game:
its step is the same at any weight, since optimisers divide by the gradient's size, and so it takes
no larger part in the norm that gradients are clipped to than the student's term does.

Legend: B batch, H W pixels, Z latent channels, h w latent size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tocsr.models.detail import repetition
from tocsr.models.discriminator import (
    LatentDiscriminator,
    PixelDiscriminator,
    discriminator,
)
from tocsr.models.perceptual import EncoderDistance, ShiftTolerantLPIPS
from tocsr.models.vae import LATENT_STRIDE, latents_to_pixels, pixels_to_latents
from tocsr.seeding import derive_seed, numpy_rng
from tocsr.train.adversary import adversarial_terms

if TYPE_CHECKING:
    from tocsr.data.images import Batch
    from tocsr.models.vae import Autoencoder
    from tocsr.train.sr_configs import DistillConfig

# Two batches of images (B, 3, H, W) in [-1, 1] -> how unlike each two look, (B,)
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Extras:
    """Networks of the extra losses.

    Args:
        perceptual: What measures how a result looks; None where the term is off.
        discriminator: Of latents or of pixels; None where the adversarial term is off.
    """

    perceptual: Distance | None = None
    discriminator: LatentDiscriminator | PixelDiscriminator | None = None

    @classmethod
    def start(cls, config: DistillConfig, vae: Autoencoder) -> Extras:
        """The networks that the weights ask for, before the first step, where the autoencoder is.

        Raises:
            TocsrError: The file named by `perceptual` does not hold such weights.
        """
        perceptual: Distance | None = None
        judge = None
        if config.perceptual_weight:
            own = config.perceptual == "encoder"
            path = Path(config.perceptual)
            perceptual = (
                EncoderDistance(vae) if own else ShiftTolerantLPIPS.from_file(path).to(vae.device)
            )
        if config.adversarial_weight:
            torch.manual_seed(derive_seed(config.seed, "discriminator"))
            judge = discriminator(config.adversarial, vae.config.latent_channels).to(vae.device)
        return cls(perceptual, judge)


def sub_crops(
    images: Tensor, side: int, seed: int, indices: list[int], name: str = "perceptual crop"
) -> Tensor:
    """A square of each image, where (seed, name, index) says, (B, 3, side, side)."""
    height, width = images.shape[-2:]
    crops = []
    for image, index in zip(images, indices, strict=True):
        rng = numpy_rng(seed, name, index)
        top, left = (int(rng.integers(length - side + 1)) for length in (height, width))
        crops.append(image[:, top : top + side, left : left + side])
    return torch.stack(crops)


def grid_error(restored: Tensor, photo: Tensor) -> Tensor:
    """How much more of its detail a result repeats on a grid than the photo does, a scalar.

    A decoder that gives channels places of their own, and a U-Net before it, can make one pattern
    in every cell of the latent, and perceptual losses take it for detail.

    Args:
        restored: (B, 3, H, W) in [-1, 1], H and W multiples of 16 and at least 64.
        photo: Likewise.
    """
    return F.relu(repetition(restored) - repetition(photo))


def extra_terms(
    config: DistillConfig,
    extras: Extras,
    vae: Autoencoder,
    predicted: Tensor,
    lr_latent: Tensor,
    batch: Batch,
) -> dict[str, Tensor]:
    """The extra losses whose weights are not 0, by name and before their weights.

    Args:
        config: The weights.
        extras: Networks of these losses.
        vae: E and D, frozen.
        predicted: z0_hat (B, Z, h, w), the student's.
        lr_latent: z_LR, likewise.
        batch: The photos.
    """
    terms = {}
    judge, sees = extras.discriminator, config.adversarial
    if config.sees_pixels:
        decoded = latents_to_pixels(vae, predicted).float()
    if config.pixel_weight:
        terms["pixel"] = F.l1_loss(decoded, batch.images)
    if extras.perceptual:
        pair = [decoded, batch.images]
        if side := config.perceptual_crop:
            pair = [sub_crops(image, side, config.seed, batch.indices) for image in pair]
        terms["perceptual"] = extras.perceptual(*pair).mean()
    if config.grid_weight:
        terms["grid"] = grid_error(decoded, batch.images)
    if config.latent_weight or (judge and sees == "latents"):
        with torch.no_grad():
            photo_latent = pixels_to_latents(vae, batch.images)
    if config.latent_weight:
        terms["latent"] = F.mse_loss(predicted, photo_latent)
    if judge and sees == "latents":
        terms |= adversarial_terms(judge, predicted, photo_latent, lr_latent)
    elif judge:  # squares that begin anywhere in a cell, or its strides would leave a grid
        side = batch.images.shape[-1] - LATENT_STRIDE
        terms |= adversarial_terms(
            judge,
            *(
                sub_crops(image, side, config.seed, batch.indices, "adversarial crop")
                for image in (decoded, batch.images)
            ),
        )
    return terms


def weighted(config: DistillConfig, terms: dict[str, Tensor]) -> Tensor:
    """The loss that terms add up to, `distill` among them."""
    weights = {
        "distill": config.distill_weight,
        "pixel": config.pixel_weight,
        "perceptual": config.perceptual_weight,
        "latent": config.latent_weight,
        "grid": config.grid_weight,
        "adversarial": config.adversarial_weight,
        "discriminator": config.adversarial_weight,
    }
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
