"""Gaussian and Poisson noise, in colour or gray.

One image at a time, since each has a generator of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GRAY = (0.2989, 0.587, 0.114)  # of R, G, B, as in Real-ESRGAN's pipeline


def add_gaussian_noise(
    images: Tensor, sigma: float, gray: bool, generator: torch.Generator
) -> Tensor:
    """Adds normal noise and clips.

    Args:
        images: (B, 3, H, W) in [0, 1].
        sigma: Standard deviation in levels of 255.
        gray: Whether the three channels get the same.
        generator: On the device of the images.
    """
    B, C, height, width = images.shape
    shape = (B, 1 if gray else C, height, width)
    noise = torch.randn(shape, generator=generator, device=images.device)
    return (images + noise * (sigma / 255)).clamp(0, 1)


def add_poisson_noise(
    images: Tensor, scale: float, gray: bool, generator: torch.Generator
) -> Tensor:
    """Adds shot noise and clips: the brighter a pixel, the more.

    A pixel v of an image counts v * n photons, n the number of levels that the image has, rounded
    up to a power of two. Each channel counts its own, or all get what their gray image counts.

    Args:
        images: (B, 3, H, W) in [0, 1].
        scale: Factor on the noise.
        gray: Whether the three channels get the same.
        generator: On the device of the images.
    """
    bright = images
    if gray:
        weights = torch.tensor(_GRAY, device=images.device).view(1, 3, 1, 1)
        bright = (images * weights).sum(1, keepdim=True)
    levels = (bright * 255).round().clamp(0, 255)
    photons = torch.stack([_num_levels(image) for image in levels]).view(-1, 1, 1, 1)
    exact = levels / 255
    counted = torch.poisson(exact * photons, generator=generator) / photons
    return (images + (counted - exact) * scale).clamp(0, 1)


def _num_levels(levels: Tensor) -> Tensor:
    """The number of distinct values among 0..255, rounded up to a power of two."""
    seen = torch.zeros(256, device=levels.device)
    seen[levels.long()] = 1
    powers = 2 ** torch.arange(8, device=levels.device)
    return 2 ** (powers < seen.sum()).sum()
