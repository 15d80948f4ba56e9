"""DISTS: likeness of structure and of texture in the features of VGG-16.

Ding, Ma, Wang, Simoncelli, "Image quality assessment: unifying structure and texture similarity",
IEEE TPAMI 44(5), 2022. Written from the article and held against the authors' package
DISTS-pytorch. Images are compared at the size they have, as in pyiqa.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.config import require
from tocsr.data.images import to_tensor
from tocsr.deploy.metrics.trunks import VGG16_TAPS, load_trunk_, read_tensors, tapped, vgg16
from tocsr.errors import ExitCode, TocsrError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tocsr.deploy.metrics.subject import Subject

MIN_SIDE = 16  # pixels; four poolings leave one
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)  # ImageNet's, in [0, 1]
_STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
_WIDTHS = (3, 64, 128, 256, 512, 512)  # the image itself, then the features
_C = 1e-6


class _L2Pool(nn.Module):
    """Every second pixel of the root of the blurred square (Henaff and Simoncelli, ICLR 2016)."""

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, (h + 1) // 2, (w + 1) // 2)."""
        row = torch.tensor([0.25, 0.5, 0.25])
        window = torch.outer(row, row).expand(h.shape[1], 1, 3, 3)
        return (F.conv2d(h**2, window, stride=2, padding=1, groups=h.shape[1]) + 1e-12).sqrt()


@dataclass(frozen=True)
class _Features:
    """Of each layer the features (C, h w), and their mean and variance (C,)."""

    values: list[Tensor]
    means: list[Tensor]
    variances: list[Tensor]


def load_dists(paths: Sequence[Path]) -> Callable[[Subject, Subject], float]:
    """DISTS: 1 - sum_lc ( alpha_lc l(x, y) + beta_lc s(x, y) ), the weights of sum 1.

    l compares the means of a channel, s the covariance with the variances.

    Args:
        paths: Torchvision's VGG-16, and alpha and beta of the authors' package.

    Raises:
        TocsrError: A file does not hold the weights (MODEL); later, an image below 16 pixels.
    """
    trunk = load_trunk_(vgg16(_L2Pool), paths[0])
    held = read_tensors(paths[1])
    if held.keys() != {"alpha", "beta"} or held["alpha"].numel() != sum(_WIDTHS):
        raise TocsrError(
            f"{paths[1]} must hold alpha and beta of {sum(_WIDTHS)} channels", code=ExitCode.MODEL
        )
    whole = held["alpha"].sum() + held["beta"].sum()
    alpha, beta = ((held[name].flatten() / whole).split(_WIDTHS) for name in ("alpha", "beta"))

    @torch.inference_mode()
    def features(image: Subject) -> _Features:
        require(
            min(image.size) >= MIN_SIDE,
            f"DISTS needs at least {MIN_SIDE} x {MIN_SIDE} pixels, got {image.size}",
        )
        pixels = (to_tensor(image.rgb)[None] + 1) / 2
        layers = [pixels, *tapped(trunk, (pixels - _MEAN) / _STD, VGG16_TAPS)]
        values = [h[0].flatten(1) for h in layers]
        means = [h.mean(dim=1) for h in values]
        variances = [h.var(dim=1, correction=0) for h in values]
        return _Features(values, means, variances)

    @torch.inference_mode()
    def measure(image: Subject, reference: Subject) -> float:
        x, y = (one.derived("DISTS", features) for one in (image, reference))
        alike = torch.tensor(0.0)
        for layer in range(len(_WIDTHS)):
            mean_x, mean_y = x.means[layer], y.means[layer]
            texture = (2 * mean_x * mean_y + _C) / (mean_x**2 + mean_y**2 + _C)
            covariance = (x.values[layer] * y.values[layer]).mean(dim=1) - mean_x * mean_y
            variances = x.variances[layer] + y.variances[layer]
            structure = (2 * covariance + _C) / (variances + _C)
            alike += (alpha[layer] * texture + beta[layer] * structure).sum()
        return 1 - float(alike)

    return measure
