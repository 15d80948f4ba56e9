"""Shift-tolerant LPIPS as a metric of files: the network is `tocsr.models.perceptual`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tocsr.config import require
from tocsr.data.images import to_tensor
from tocsr.models.perceptual import MIN_SIDE, ShiftTolerantLPIPS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tocsr.deploy.metrics.subject import Subject


class _SeparableMax(nn.Module):
    """Max pooling of stride 1, rows and then columns: the same values in a fraction of the time."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h - side + 1, w - side + 1)."""
        for dim in (2, 3):
            length = h.shape[dim] - self.side + 1
            most = h.narrow(dim, 0, length)
            for place in range(1, self.side):
                most = torch.maximum(most, h.narrow(dim, place, length))
            h = most
        return h


def load_stlpips(paths: Sequence[Path]) -> Callable[[Subject, Subject], float]:
    """ST-LPIPS, by the features that each image is asked for once.

    Args:
        paths: The one file of weights.

    Raises:
        TocsrError: The file does not hold the weights; later, an image below 32 pixels.
    """
    metric = ShiftTolerantLPIPS.from_file(paths[0])
    for part in metric.net.values():
        for name, layer in part.named_children():
            if isinstance(layer, nn.MaxPool2d):
                assert isinstance(layer.kernel_size, int)
                setattr(part, name, _SeparableMax(layer.kernel_size))

    @torch.inference_mode()
    def features(image: Subject) -> list[Tensor]:
        require(
            min(image.size) >= MIN_SIDE,
            f"ST-LPIPS needs at least {MIN_SIDE} x {MIN_SIDE} pixels, got {image.size}",
        )
        return metric.features(to_tensor(image.rgb)[None])

    @torch.inference_mode()
    def measure(image: Subject, reference: Subject) -> float:
        pairs = zip(
            image.derived("ST-LPIPS", features),
            reference.derived("ST-LPIPS", features),
            metric.heads,
            strict=True,
        )
        return sum(
            float(((one - other) ** 2 * head).sum(dim=1).mean()) for one, other, head in pairs
        )

    return measure
