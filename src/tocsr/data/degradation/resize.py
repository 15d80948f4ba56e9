"""Sizes: the three ways in which Real-ESRGAN's pipeline resizes, and the plain reduction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from tocsr.data.degradation.draws import Mode


def bicubic(image: Tensor, factor: int) -> Tensor:
    """Antialiased bicubic reduction (a = -0.5), (B, 3, H, W) -> (B, 3, H/f, W/f), in [-1, 1]."""
    return F.interpolate(image, scale_factor=1 / factor, mode="bicubic", antialias=True)


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width times `scale`, rounded down, at least 1."""
    return max(int(size[0] * scale), 1), max(int(size[1] * scale), 1)


def resize(images: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    """Images (B, C, H, W) at another size.

    Without antialiasing, as in Real-ESRGAN: `bilinear` and `bicubic` (a = -0.75) take 4 and 16
    pixels however far the size goes down, and so let aliases through; `area` takes means.
    """
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode=mode)
