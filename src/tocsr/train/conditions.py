"""What a restoring U-Net is conditioned on, in `train-sr` and `distill` (Eq. 19)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tocsr.data.degrade import degrade
from tocsr.models.vae import lr_to_latents

if TYPE_CHECKING:
    from torch import Tensor

    from tocsr.config import TaskConfig
    from tocsr.data.images import Batch
    from tocsr.models.vae import Autoencoder


@torch.no_grad()
def lr_latents(vae: Autoencoder, batch: Batch, task: TaskConfig, seed: int) -> Tensor:
    """z_LR (B, Z, h, w) of a batch of photos, degraded as the task says (Eq. 19)."""
    lr = degrade(batch.images, task.upscale, task.degradation, seed, batch.indices)
    return lr_to_latents(vae, lr, task.upscale)
