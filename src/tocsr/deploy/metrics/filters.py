"""The separable filter that SSIM and NIQE share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def filtered(image: Tensor, taps: Tensor) -> Tensor:
    """A symmetric filter along both sides, where it lies inside; as double a sum of shifts.

    PyTorch's convolutions of one channel take several times as long.

    Args:
        image: (H, W).
        taps: (K,), symmetric.

    Returns:
        (H - K + 1, W - K + 1).
    """
    weights = taps.tolist()
    for side in (0, 1):
        length = image.shape[side] - len(weights) + 1
        total = image.narrow(side, 0, length) * weights[0]
        for place, weight in enumerate(weights[1:], start=1):
            total.add_(image.narrow(side, place, length), alpha=weight)
        image = total
    return image
