"""distill: the multi-step super-resolver distilled into one step (paper 3.3.2, algorithm 4)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tocsr.data.images import PhotoCrops, batches
from tocsr.devices import pick_device
from tocsr.diffusion import NoiseSchedule, conditioned, ddim_sample, sample_noise
from tocsr.files import whole_file
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.sr import GeneratorFacts, OneStepGenerator, one_step, with_prediction
from tocsr.models.vae import LATENT_STRIDE, latents_to_pixels
from tocsr.processes import from_main
from tocsr.runs import phase, require_result
from tocsr.train.conditions import lr_latents
from tocsr.train.loop import fit

if TYPE_CHECKING:
    from pathlib import Path

    from tocsr.data.images import Batch
    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder
    from tocsr.runs import Report, Run
    from tocsr.train.configs import DistillConfig


def distillation_loss(predicted: Tensor, teacher_latent: Tensor) -> Tensor:
    """L_distill = E || G_phi(z_T, z_LR) - z0_teacher ||^2, the mean over elements (Eq. 23)."""
    return F.mse_loss(predicted, teacher_latent)


def start_noise(latents: Tensor, seed: int, indices: list[int]) -> Tensor:
    """z_T of each sample, like `latents`: the teacher and the student start from the same."""
    return sample_noise(tuple(latents.shape[1:]), seed, indices, "start").to(latents.device)


def teacher_targets(
    config: DistillConfig,
    sr_teacher: CompactUNet,
    vae: Autoencoder,
    run: Run,
    device: torch.device,
    report: Report,
) -> Tensor:
    """z0_teacher of the first `num_targets` samples: full sampling by the multi-step model.

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
    schedule, size = NoiseSchedule(), config.optim.batch_size
    missing = [step for step, file in enumerate(files) if not file.exists()]
    data = PhotoCrops(config.data, config.seed, config.num_targets)
    for step, batch in zip(missing, batches(data, size, missing), strict=True):
        lr_latent = lr_latents(vae, batch.to(device), config.task, config.seed)
        latent = ddim_sample(
            conditioned(sr_teacher, lr_latent, sr_teacher.config.prediction),
            schedule,
            start_noise(lr_latent, config.seed, batch.indices),
            config.num_denoise_steps,
            config.clip,
            sr_teacher.config.prediction,
        )
        with whole_file(files[step]) as part:
            save_file({"latents": latent.half().cpu().contiguous()}, part)
        report("teacher sampling", step + 1, len(files), {})


def student_loss(
    config: DistillConfig,
    student: CompactUNet,
    vae: Autoencoder,
    schedule: NoiseSchedule,
    targets: Tensor,
    batch: Batch,
) -> dict[str, Tensor]:
    """Eq. 23 on a batch, and the pixel loss where it is on.

    Returns:
        `loss`, and its terms `distill` and `pixel`.
    """
    lr_latent = lr_latents(vae, batch, config.task, config.seed)
    noise = start_noise(lr_latent, config.seed, batch.indices)
    predicted = one_step(student, schedule, noise, lr_latent)
    distill = distillation_loss(predicted, targets[batch.indices].to(predicted))
    if not config.pixel_weight:
        return {"loss": distill}
    # Not in the paper: the photo itself, through the decoder, beside what the teacher made of it.
    pixel = F.l1_loss(latents_to_pixels(vae, predicted).float(), batch.images)
    return {"loss": distill + config.pixel_weight * pixel, "distill": distill, "pixel": pixel}


def generator_facts(config: DistillConfig, unet: CompactUNet) -> GeneratorFacts:
    """What the finished model's folder says about it."""
    return GeneratorFacts(
        upscale=config.task.upscale,
        degradation=config.task.degradation_name,
        latent_channels=unet.latent_channels,
        pixel_multiple=LATENT_STRIDE * unet.size_multiple,
        halo=2 * LATENT_STRIDE * unet.size_multiple,
        local=unet.is_local,
        prediction=unet.config.prediction,
        timestep=NoiseSchedule().last_timestep,
    )


@phase
def run(config: DistillConfig, run: Run, report: Report) -> dict[str, Any]:
    """Samples the teacher, trains the student; writes the finished model to `model/`."""
    require_result(config, "train-sr")
    device = pick_device(config.device, config.num_threads)
    sr_teacher = load_unet(config.runs / "train-sr" / "unet").to(device).requires_grad_(False)
    vae = load_vae(config.runs / "expand-unet" / "vae").to(device).requires_grad_(False)
    targets = teacher_targets(config, sr_teacher, vae, run, device, report)
    student = copy.deepcopy(sr_teacher)
    if config.prediction != "teacher":
        student = with_prediction(student, config.prediction).to(device)
    student.requires_grad_(True)
    schedule = NoiseSchedule()
    figures = fit(
        run,
        config.verb,
        {"unet": student},
        lambda batch: student_loss(config, student, vae, schedule, targets, batch),
        data=config.data,
        optim=config.optim,
        seed=config.seed,
        device=device,
        report=report,
        num_distinct=config.num_targets,
    )
    run.save(OneStepGenerator(vae, student, generator_facts(config, student)), "model")
    return figures
