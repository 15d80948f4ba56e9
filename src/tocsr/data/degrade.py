"""From a photo to the low-resolution image that training and evaluation start from."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def bicubic(image: Tensor, factor: int) -> Tensor:
    """Antialiased bicubic reduction (a = -0.5), (B, 3, H, W) -> (B, 3, H/f, W/f), in [-1, 1]."""
    return F.interpolate(image, scale_factor=1 / factor, mode="bicubic", antialias=True)


def degrade(image: Tensor, factor: int, degradation: str) -> Tensor:
    """x_LR of a batch, rounded to 8 bits as in a file.

    Args:
        image: (B, 3, H, W) in [-1, 1], H and W multiples of `factor`.
        factor: Upscaling factor of the task.
        degradation: `bicubic`.
    """
    match degradation:
        case "bicubic":
            lr = bicubic(image, factor)
        case _:
            raise ValueError(f"degradation must be bicubic, got {degradation}")
    return ((lr.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
