"""From photos to the low-resolution images that training and evaluation start from."""

from __future__ import annotations

import torch
from torch import Tensor

from tocsr.data.degradation.resize import bicubic
from tocsr.data.degradation.second_order import second_order
from tocsr.data.degradation.settings import load_degradation
from tocsr.restoration import BICUBIC


@torch.no_grad()
def degrade(images: Tensor, factor: int, degradation: str, seed: int, indices: list[int]) -> Tensor:
    """x_LR of a batch, rounded to 8 bits as in a file.

    A sample's result is a function of its pixels, the seed and its index, whatever the batch. What
    is drawn (kernels, sizes, qualities) is so on every device; noise is drawn on the device of the
    images, and another kind of device has other numbers of the same distribution.

    Args:
        images: (B, 3, H, W) in [-1, 1], H and W multiples of `factor`.
        factor: Upscaling factor of the task.
        degradation: `bicubic`, a shipped degradation of second order, or a YAML file of one.
        seed: Of what is drawn.
        indices: Index of each sample.

    Returns:
        (B, 3, H/f, W/f) in [-1, 1], float32.

    Raises:
        TocsrError: No such degradation, or its file does not say what it must.
    """
    height, width = images.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"sides must be multiples of {factor}, got {width} x {height}")
    # under a phase's reduced precision, levels of 255 would run together
    with torch.autocast(images.device.type, enabled=False):
        if degradation == BICUBIC:
            lr = bicubic(images, factor)
        else:
            settings = load_degradation(degradation)
            reduced = [
                second_order((image[None] + 1) / 2, factor, settings, seed, index)
                for image, index in zip(images, indices, strict=True)
            ]
            lr = torch.cat(reduced) * 2 - 1
        return ((lr.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
