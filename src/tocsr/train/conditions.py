"""What a restoring U-Net is conditioned on, in `train-sr` and `distill` (Eq. 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tocsr.config import require
from tocsr.data.degrade import degrade
from tocsr.models.vae import lr_to_latents

if TYPE_CHECKING:
    from torch import Tensor

    from tocsr.data.images import Batch
    from tocsr.models.vae import Autoencoder
    from tocsr.restoration import TaskConfig


@torch.no_grad()
def lr_latents(vae: Autoencoder, batch: Batch, task: TaskConfig, seed: int) -> Tensor:
    """z_LR (B, Z, h, w), the condition of a batch of photos as the task says (Eq. 19).

    Raises:
        TocsrError: The batch holds pairs of another factor than the task's.
    """
    match task.condition:
        case "low-resolution":
            return lr_to_latents(vae, low_resolution(batch, task, seed), task.upscale)
    raise ValueError(f"no condition is called {task.condition}")


def low_resolution(batch: Batch, task: TaskConfig, seed: int) -> Tensor:
    """x_LR (B, 3, H/f, W/f) in [-1, 1]: that of a pair as it is, the others' degraded photos.

    Raises:
        TocsrError: The batch holds pairs of another factor than the task's.
    """
    if batch.lr is None:
        return degrade(batch.images, task.upscale, task.degradation, seed, batch.indices)
    factor = batch.images.shape[-1] // batch.lr.shape[-1]
    require(
        factor == task.upscale,
        f"pairs must be of the task's factor {task.upscale}, those in data.sources are of {factor}",
        "set task.name or task.upscale, or leave the pairs out",
    )
    lr = batch.lr.clone()
    alone = lr.isnan().flatten(1).any(1).nonzero().flatten().tolist()
    if alone:
        indices = [batch.indices[i] for i in alone]
        lr[alone] = degrade(batch.images[alone], factor, task.degradation, seed, indices)
    return lr
