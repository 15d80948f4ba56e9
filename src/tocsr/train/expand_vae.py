"""expand-vae: a 16-channel autoencoder distilled into the base one (paper 3.1, algorithm 2)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tocsr.devices import pick_device
from tocsr.models.folders import load_vae
from tocsr.models.vae import (
    LocalAutoencoder,
    latent_distillation_loss,
    least_squares_start_,
    widened,
)
from tocsr.runs import phase, require_result
from tocsr.seeding import derive_seed
from tocsr.train.loop import fit
from tocsr.train.pretrain import sample_images

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
    """Trains the student autoencoder with the loss of Eq. 4; writes `vae/`."""
    device = pick_device(config.device, config.num_threads)
    teacher = load_vae(base_folder(config, "vae_teacher")).to(device).requires_grad_(False)
    torch.manual_seed(derive_seed(config.seed, config.verb))
    base = load_vae(base_folder(config, "vae")).to(device)
    student = widened(base, teacher).to(device)
    if isinstance(student, LocalAutoencoder):
        images = sample_images(config.data, config.seed).to(device)
        least_squares_start_(student, base, teacher, images)
    figures = fit(
        run,
        config.verb,
        {"vae": student},
        lambda batch: latent_distillation_loss(
            student, teacher, batch.images, config.rec_weight, config.rec_norm
        ),
        data=config.data,
        optim=config.optim,
        seed=config.seed,
        device=device,
        report=report,
    )
    student.save_pretrained(run.folder / "vae")
    return figures
