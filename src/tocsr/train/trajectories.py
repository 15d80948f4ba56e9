"""Where the multi-step teacher ends from a sample's start noise: what the student learns (Eq. 23).

Legend: B batch, Z latent channels, h w latent size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tocsr.data.images import Batch, PhotoCrops, batches
from tocsr.diffusion import NoiseSchedule, sample_noise
from tocsr.files import whole_file
from tocsr.models.sr import multi_step
from tocsr.processes import from_main
from tocsr.train.conditions import lr_latents

if TYPE_CHECKING:
    from pathlib import Path

    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder
    from tocsr.runs import Report, Run
    from tocsr.train.sr_configs import DistillConfig

# (a batch, its z_LR (B, Z, h, w), its z_T (B, Z, h, w)) -> z0_teacher (B, Z, h, w), float32
Targets = Callable[[Batch, Tensor, Tensor], Tensor]


def start_noise(latents: Tensor, seed: int, indices: list[int]) -> Tensor:
    """z_T of each sample, like `latents`: the teacher and the student start from the same."""
    return sample_noise(tuple(latents.shape[1:]), seed, indices, "start").to(latents.device)


def teacher_latent(
    config: DistillConfig, sr_teacher: CompactUNet, lr_latent: Tensor, noise: Tensor
) -> Tensor:
    """z0_teacher (B, Z, h, w), float32: full sampling by the multi-step model from z_T and z_LR."""
    steps, clip = config.num_denoise_steps, config.clip
    return multi_step(sr_teacher, NoiseSchedule(), noise, lr_latent, steps, clip)


def teacher_targets(
    config: DistillConfig,
    sr_teacher: CompactUNet,
    vae: Autoencoder,
    run: Run,
    device: torch.device,
    report: Report,
) -> Targets:
    """What gives z0_teacher of a batch: kept on disk, or sampled when it is asked for."""
    if config.target_source == "none":
        return no_target
    if config.target_source == "on-the-fly":
        return lambda batch, lr_latent, noise: teacher_latent(config, sr_teacher, lr_latent, noise)
    latents = cached_latents(config, sr_teacher, vae, run, device, report)
    return lambda batch, lr_latent, noise: latents[batch.indices].to(lr_latent)


def no_target(batch: Batch, lr_latent: Tensor, noise: Tensor) -> Tensor:
    """Where Eq. 23 has no weight, nobody asks."""
    raise AssertionError("the teacher is not sampled where distill_weight is 0")


def cached_latents(
    config: DistillConfig,
    sr_teacher: CompactUNet,
    vae: Autoencoder,
    run: Run,
    device: torch.device,
    report: Report,
) -> Tensor:
    """z0_teacher of the first `num_targets` samples, read from disk or sampled now.

    Each batch is a file of its own under `targets/`, so that a killed run repeats one at most.

    Returns:
        (num_targets, Z, h, w), float16, on the CPU.
    """
    steps = range(config.num_targets // config.optim.batch_size)
    files = [run.folder / "targets" / f"{step:06d}.safetensors" for step in steps]
    _sample_missing(config, sr_teacher, vae, files, device, report)
    return torch.cat([load_file(file)["latents"] for file in files])


@from_main
def _sample_missing(
    config: DistillConfig,
    sr_teacher: CompactUNet,
    vae: Autoencoder,
    files: list[Path],
    device: torch.device,
    report: Report,
) -> None:
    size = config.optim.batch_size
    missing = [step for step, file in enumerate(files) if not file.exists()]
    data = PhotoCrops(config.data, config.seed, config.num_targets)
    for step, batch in zip(missing, batches(data, size, missing), strict=True):
        lr_latent = lr_latents(vae, batch.to(device), config.task, config.seed)
        noise = start_noise(lr_latent, config.seed, batch.indices)
        latent = teacher_latent(config, sr_teacher, lr_latent, noise)
        with whole_file(files[step]) as part:
            save_file({"latents": latent.half().cpu().contiguous()}, part)
        report("teacher sampling", step + 1, len(files), {})
