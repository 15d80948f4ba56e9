"""LPIPS: the distance of two images between the features of AlexNet.

Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features as a
perceptual metric", CVPR 2018. Written from the article and held against the authors' package lpips,
version 0.1 of the heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tocsr.config import require
from tocsr.data.images import to_tensor
from tocsr.deploy.metrics.trunks import ALEXNET_TAPS, alexnet, load_trunk_, read_tensors, tapped
from tocsr.errors import ExitCode, TocsrError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from tocsr.deploy.metrics.subject import Subject

MIN_SIDE = 32  # pixels; below 31 AlexNet's second pooling has nothing left
_SHIFT = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)  # ImageNet's, in [-1, 1]
_SCALE = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
_EPS = 1e-10


def load_lpips(paths: Sequence[Path]) -> Callable[[Subject, Subject], float]:
    """LPIPS: sum_l mean_hw( w_l . (f_l(x) / |f_l(x)| - f_l(y) / |f_l(y)|)^2 ).

    Args:
        paths: Torchvision's AlexNet, and the heads w_l of the authors' package.

    Raises:
        TocsrError: A file does not hold the weights (MODEL); later, an image below 32 pixels.
    """
    trunk = load_trunk_(alexnet(), paths[0])
    held = read_tensors(paths[1])
    try:
        heads = [held[f"lin{layer}.model.1.weight"] for layer in range(len(ALEXNET_TAPS))]
    except KeyError as error:
        raise TocsrError(f"{paths[1]} lacks the head {error}", code=ExitCode.MODEL) from error

    @torch.inference_mode()
    def features(image: Subject) -> list[Tensor]:
        require(
            min(image.size) >= MIN_SIDE,
            f"LPIPS needs at least {MIN_SIDE} x {MIN_SIDE} pixels, got {image.size}",
        )
        found = tapped(trunk, (to_tensor(image.rgb)[None] - _SHIFT) / _SCALE, ALEXNET_TAPS)
        return [h / (h.square().sum(dim=1, keepdim=True).sqrt() + _EPS) for h in found]

    @torch.inference_mode()
    def measure(image: Subject, reference: Subject) -> float:
        pairs = zip(
            image.derived("LPIPS", features),
            reference.derived("LPIPS", features),
            heads,
            strict=True,
        )
        return sum(float(((x - y) ** 2 * head).sum(dim=1).mean()) for x, y, head in pairs)

    return measure
