"""expand-vae: a 16-channel autoencoder distilled into the base one (paper 3.1, algorithm 2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tocsr.devices import pick_device
from tocsr.models.folders import load_vae
from tocsr.models.starts import start_autoencoder_
from tocsr.models.vae import LatentMap, reconstruct_with_loss, widened
from tocsr.runs import phase, require_result
from tocsr.seeding import derive_seed
from tocsr.train.loop import fit
from tocsr.train.pretrain import measure_scale_, sample_images
from tocsr.train.teacher_latents import teacher_latents

if TYPE_CHECKING:
    from tocsr.runs import Report, Run
    from tocsr.train.configs import ExpandUnetConfig, ExpandVaeConfig


def base_folder(config: ExpandVaeConfig | ExpandUnetConfig, name: str) -> Path:
    """Where a base network lies: the folder that the configuration names, or pretrain's."""
    if named := getattr(config, name):
        return Path(named)
    require_result(config, "pretrain")
    return config.runs / "pretrain" / name


@phase
def run(config: ExpandVaeConfig, run: Run, report: Report) -> dict[str, Any]:
    """Trains the student autoencoder with the loss of Eq. 4; writes `vae/`.

    Beside it `latent_map/`, where the teacher's latent has another number of channels.
    """
    device = pick_device(config.device, config.num_threads)
    teacher = (
        load_vae(base_folder(config, "vae_teacher"), config.preset, "vae_teacher")
        .to(device)
        .requires_grad_(False)
    )
    torch.manual_seed(derive_seed(config.seed, config.verb))
    base = load_vae(base_folder(config, "vae"), config.preset).to(device)
    student = widened(base, teacher, config.latent_channels).to(device)
    latent_map = None
    trained: dict[str, nn.Module] = {"vae": student}
    if config.latent_channels != teacher.config.latent_channels:
        latent_map = LatentMap(config.latent_channels, teacher.config.latent_channels).to(device)
        trained["latent_map"] = latent_map
    images = sample_images(config.data, config.seed).to(device)
    start_autoencoder_(config.start, student, base, teacher, images, latent_map)
    target_of, data = teacher_latents(config, teacher)
    figures = fit(
        run,
        config.verb,
        trained,
        lambda batch: reconstruct_with_loss(
            student,
            latent_map,
            target_of(batch),
            batch.images,
            config.rec_weight,
            config.rec_norm,
        )[1],
        data=data,
        optim=config.optim,
        seed=config.seed,
        device=device,
        report=report,
    )
    if latent_map:  # nothing has held the student to a scale
        measure_scale_(student, data, config.seed, device)
        run.save(latent_map, "latent_map")
    run.save(student, "vae")
    return figures
