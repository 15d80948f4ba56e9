"""The TAESD family: tiny autoencoders of other models' latents, which stand as `vae_teacher`.

Not in the paper. Architecture of madebyollin/taesd (MIT); its files `*_encoder.safetensors` and
`*_decoder.safetensors` load as they are: taesd, taesdxl (4 channels), taesd3, taef1 (16 channels)
and taef2 (32 channels, FLUX.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load_file
from torch import Tensor, nn

from tocsr.models.base import AlignedModel

if TYPE_CHECKING:
    from pathlib import Path

_NORM_GROUPS = 4


class _Block(nn.Module):
    """Three 3x3 convolutions added to their input, after a residual pooled over the whole image."""

    def __init__(self, width: int, pooled: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.pool = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(width, 4 * width, 1, bias=False),
                nn.GroupNorm(_NORM_GROUPS, 4 * width),
                nn.ReLU(),
                nn.Conv2d(4 * width, width, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def _encoder(latent_channels: int, width: int, pooled: bool) -> nn.Sequential:
    layers = [nn.Conv2d(3, width, 3, padding=1), _Block(width, False)]
    for level in range(3):
        layers.append(nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False))
        layers += [_Block(width, pooled and level == 2) for _ in range(3)]
    return nn.Sequential(*layers, nn.Conv2d(width, latent_channels, 3, padding=1))


def _decoder(latent_channels: int, width: int, pooled: bool) -> nn.Sequential:
    layers = [_Clamp(), nn.Conv2d(latent_channels, width, 3, padding=1), nn.ReLU()]
    for level in range(3):
        layers += [_Block(width, pooled and level == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, _Block(width, False), nn.Conv2d(width, 3, 3, padding=1))


class TinyAutoencoder(AlignedModel, ConfigMixin):
    """An autoencoder of the TAESD family.

    Args:
        latent_channels: Z.
        width: Channels of every layer.
        pooled: Whether the blocks at the latent's resolution have a residual that is normalised
            over the whole image, as in taef2.
        scaling_factor: Scale of the latents, 1 / standard deviation.
        shift_factor: Shift of the latents, their mean.

    Shape:
        encode: (B, 3, H, W) in [-1, 1] -> (B, Z, H/8, W/8), unscaled; decode is its inverse.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        width: int = 64,
        pooled: bool = True,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = _encoder(latent_channels, width, pooled)
        self.decoder = _decoder(latent_channels, width, pooled)

    @classmethod
    def from_files(cls, encoder: Path, decoder: Path) -> Self:
        """The autoencoder in two weight files of the family, its settings read off the weights.

        Raises:
            RuntimeError: The files hold other weights.
        """
        weights = {name: load_file(path) for name, path in (("e", encoder), ("d", decoder))}
        first = weights["d"]["1.weight"]
        pooled = any(".pool." in key for key in weights["d"])
        model = cls(latent_channels=first.shape[1], width=first.shape[0], pooled=pooled)
        model.encoder.load_state_dict(weights["e"])
        model.decoder.load_state_dict(weights["d"])
        return model.float().eval()

    def encode(self, x: Tensor) -> Tensor:
        """E(x), unscaled."""
        return self.encoder((x + 1) / 2)

    def decode(self, z: Tensor) -> Tensor:
        """D(z) of an unscaled latent."""
        return self.decoder(z) * 2 - 1

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction D(E(x))."""
        return self.decode(self.encode(x))
