"""Networks that tell photos from what a super-resolver makes, by latents or by pixels."""

from __future__ import annotations

from typing import Literal

import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.parametrizations import spectral_norm

from tocsr.models.base import AlignedModel
from tocsr.models.detail import detail

_GROUPS = 8  # of the normalisation
_DETAIL_GAIN = 14.0  # one over the standard deviation of photos' detail in [-1, 1]


Sees = Literal["latents", "pixels"]


def _layers(channels: int, width: int, *, spectral: bool) -> nn.Sequential:
    """Four convolutions: (B, channels, h, w) -> (B, 1, ceil(h/2), ceil(w/2)).

    Args:
        channels: Of the input.
        width: Channels of the first convolution.
        spectral: Whether weights have spectral norm 1 (Miyato et al. 2018); otherwise features are
            normalised in groups.
    """

    def conv(a: int, b: int, stride: int = 1, bias: bool = True) -> nn.Module:
        layer = nn.Conv2d(a, b, 3, stride, padding=1, bias=bias)
        return spectral_norm(layer) if spectral else layer

    def norm() -> nn.Module:
        return nn.Identity() if spectral else nn.GroupNorm(_GROUPS, 2 * width)

    return nn.Sequential(
        conv(channels, width),
        nn.LeakyReLU(0.2),
        conv(width, 2 * width, stride=2),
        norm(),
        nn.LeakyReLU(0.2),
        conv(2 * width, 2 * width),
        norm(),
        nn.LeakyReLU(0.2),
        conv(2 * width, 1, bias=False),
    )


class LatentDiscriminator(AlignedModel, ConfigMixin):
    """How much a latent looks like a photo's, given the low-resolution image, patch by patch.

    Not in the paper. Four convolutions on latents, which cost a fraction of what a discriminator of
    pixels does, and nothing is decoded for it. The last one has no bias: what shifts photos and
    results alike has no gradient while both are inside the hinge.

    Args:
        latent_channels: Z.
        width: Channels of the first convolution.

    Shape:
        latent and lr_latent (B, Z, h, w), about unit variance -> (B, 1, ceil(h/2), ceil(w/2)),
        float32; larger is more like a photo.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, latent_channels: int, width: int = 64) -> None:
        super().__init__()
        self.gradient_checkpointing = False  # diffusers asks; there is little to compute again
        self.layers = _layers(2 * latent_channels, width, spectral=False)

    def forward(self, latent: Tensor, lr_latent: Tensor) -> Tensor:
        return self.layers(torch.cat([latent, lr_latent], dim=1)).float()


class PixelDiscriminator(AlignedModel, ConfigMixin):
    """How much an image's detail looks like a photo's, patch by patch.

    Not in the paper. It sees what latents hide: the grid of the autoencoder's blocks. It is shown
    `detail` alone, brought to about unit variance: in whole images a net of faint dots is lost
    (docs/results/training-log.md). Squares of 2 x 2 pixels go in as channels; a patch is 28 x 28
    pixels.

    Args:
        width: Channels of the first convolution.

    Shape:
        image (B, 3, H, W) in [-1, 1], even sides -> (B, 1, ceil(H/4), ceil(W/4)), float32; larger
        is more like a photo.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.gradient_checkpointing = False  # as in the one of latents
        self.layers = _layers(12, width, spectral=True)

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(F.pixel_unshuffle(_DETAIL_GAIN * detail(image), 2)).float()


def discriminator(sees: Sees, latent_channels: int) -> LatentDiscriminator | PixelDiscriminator:
    """A discriminator that starts anew, of latents with these channels or of pixels."""
    return LatentDiscriminator(latent_channels) if sees == "latents" else PixelDiscriminator()
