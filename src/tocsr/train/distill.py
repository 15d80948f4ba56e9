"""distill: the multi-step super-resolver distilled into one step (paper 3.3.2, algorithm 4)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.config import require
from tocsr.devices import pick_device
from tocsr.diffusion import NoiseSchedule
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.local_autoencoder import OutputLayers
from tocsr.models.reach import measured_halo
from tocsr.models.sr import GeneratorFacts, OneStepGenerator, one_step
from tocsr.models.sr_starts import scale_noise_input_, with_prediction
from tocsr.models.surrogates import is_local
from tocsr.models.vae import LATENT_STRIDE, decoder_parts, with_output_layers
from tocsr.runs import phase, require_result
from tocsr.seeding import derive_seed
from tocsr.train.conditions import lr_latents
from tocsr.train.loop import fit
from tocsr.train.one_step_losses import Extras, extra_terms, weighted
from tocsr.train.trajectories import no_target, start_noise, teacher_targets

if TYPE_CHECKING:
    from pathlib import Path

    from tocsr.data.images import Batch
    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder
    from tocsr.runs import Report, Run
    from tocsr.train.sr_configs import DistillConfig
    from tocsr.train.trajectories import Targets


def distillation_loss(predicted: Tensor, teacher_latent: Tensor) -> Tensor:
    """L_distill = E || G_phi(z_T, z_LR) - z0_teacher ||^2, the mean over elements (Eq. 23)."""
    return F.mse_loss(predicted, teacher_latent)


def student_loss(
    config: DistillConfig,
    student: CompactUNet,
    vae: Autoencoder,
    schedule: NoiseSchedule,
    targets: Targets,
    batch: Batch,
    extras: Extras,
) -> dict[str, Tensor]:
    """Eq. 23 on a batch, and the extra losses that are on.

    Returns:
        `loss`, and where there are several the terms it is made of, before their weights.
    """
    lr_latent = lr_latents(vae, batch, config.task, config.seed)
    noise = start_noise(lr_latent, config.seed, batch.indices)
    predicted = one_step(student, schedule, noise, lr_latent)
    terms = {}
    if config.distill_weight:
        terms["distill"] = distillation_loss(predicted, targets(batch, lr_latent, noise))
    terms |= extra_terms(config, extras, vae, predicted, lr_latent, batch)
    return {"loss": weighted(config, terms), **(terms if len(terms) > 1 else {})}


def starting_student(config: DistillConfig, sr_teacher: CompactUNet) -> CompactUNet:
    """The student before its first step: the teacher, but for a head that predicts something else.

    Unless it is sampled with each batch nothing else needs it by then, and it becomes the student.
    """
    student = copy.deepcopy(sr_teacher) if config.target_source == "on-the-fly" else sr_teacher
    if config.prediction != "teacher":
        student = with_prediction(student, config.prediction).to(sr_teacher.device)
    scale_noise_input_(student, config.noise_share)
    return student.requires_grad_(True)


def finished_start(folder: Path, config: DistillConfig) -> OneStepGenerator:
    """The finished one-step model that training goes on from, in float32, frozen.

    Raises:
        TocsrError: No such model, or one of another factor than the task's.
    """
    generator = OneStepGenerator.from_pretrained(folder).float().requires_grad_(False)
    factor = generator.facts.upscale
    require(
        factor == config.task.upscale,
        f"the start must be of the task's factor {config.task.upscale}, {folder} is of {factor}",
        "set task.name or task.upscale",
    )
    return generator


def with_trained_decoder(vae: Autoencoder, which: str = "trained") -> Autoencoder:
    """The autoencoder, its decoder to be trained; z_LR and the photos' latents stay the same.

    Args:
        vae: It, frozen.
        which: `trained`, all of the decoder; or `output`, its output layers.

    Raises:
        TocsrError: It has no output layers.
    """
    parts = decoder_parts(vae)
    if which == "output":
        parts = [part for part in parts if isinstance(part, OutputLayers)]
        require(bool(parts), "the decoder has no output layers to train", "set output_width")
    for part in parts:
        part.requires_grad_(True)
    return vae


def finished_generator(
    config: DistillConfig, vae: Autoencoder, unet: CompactUNet
) -> OneStepGenerator:
    """The finished model with what its folder says about it."""
    multiple = LATENT_STRIDE * unet.size_multiple
    facts = GeneratorFacts(
        upscale=config.task.upscale,
        degradation=config.task.degradation_name,
        latent_channels=unet.latent_channels,
        pixel_multiple=multiple,
        halo=2 * multiple,  # a rule, for networks that see the whole image
        local=unet.is_local and is_local(vae),
        prediction=unet.config.prediction,
        timestep=NoiseSchedule().last_timestep,
    )
    generator = OneStepGenerator(vae, unet, facts)
    if facts.local:
        generator.facts = replace(facts, halo=measured_halo(generator))
    return generator


def trained_student(
    config: DistillConfig,
    run: Run,
    networks: tuple[Autoencoder, CompactUNet],
    targets: Targets,
    extras: Extras,
    report: Report,
) -> dict[str, float]:
    """Trains a student, and its decoder where that is asked for, in place; the last figures."""
    vae, student = networks
    learns = config.decoder != "frozen"
    trained_vae = with_trained_decoder(vae, config.decoder) if learns else None
    trained = {"unet": student, "vae": trained_vae, "discriminator": extras.discriminator}
    schedule = NoiseSchedule()
    return fit(
        run,
        config.verb,
        {name: network for name, network in trained.items() if network},
        lambda batch: student_loss(config, student, vae, schedule, targets, batch, extras),
        data=config.data,
        optim=config.optim,
        seed=config.seed,
        device=student.device,
        report=report,
        num_distinct=config.num_targets if config.target_source == "cached" else 0,
        lr_factors={"discriminator": config.discriminator_lr_factor},
    )


@torch.no_grad()
def go_back_(network: nn.Module, to: nn.Module, share: float) -> None:
    """Moves every weight by `share` of the way to another network's."""
    for param, other in zip(network.parameters(), to.parameters(), strict=True):
        param.lerp_(other, share)


def started(
    config: DistillConfig, run: Run, device: torch.device, report: Report
) -> tuple[tuple[Autoencoder, CompactUNet], Targets, Extras]:
    """Autoencoder and student before the first step, the teacher's results, and the helpers.

    Raises:
        TocsrError: What it starts from is not there, or of another factor.
    """
    if folder := config.start_folder:
        start = finished_start(folder, config).to(device)
        extras = Extras.start(config, start.vae)
        return (start.vae, start.unet.requires_grad_(True)), no_target, extras
    require_result(config, "train-sr")
    vae = load_vae(config.runs / "expand-unet" / "vae").to(device).requires_grad_(False)
    extras = Extras.start(config, vae)  # missing weights are named before the teacher samples
    sr_teacher = load_unet(config.runs / "train-sr" / "unet").to(device).requires_grad_(False)
    targets = teacher_targets(config, sr_teacher, vae, run, device, report)
    return (vae, starting_student(config, sr_teacher)), targets, extras


@phase
def run(config: DistillConfig, run: Run, report: Report) -> dict[str, Any]:
    """Samples the teacher, trains the student; writes the finished model to `model/`.

    Where the student is sharpened, `faithful/model/` is the one before that.
    """
    device = pick_device(config.device, config.num_threads)
    (vae, student), targets, extras = started(config, run, device, report)
    if config.output_width:
        torch.manual_seed(derive_seed(config.seed, "output layers"))
        vae = with_output_layers(vae, config.output_width).requires_grad_(False)
    if config.sharpen:
        first = run.sub("faithful")
        if not first.result():
            figures = trained_student(
                config.faithful, first, (vae, student), targets, Extras(), report
            )
            first.save(finished_generator(config, vae, student), "model")
            first.finish(figures)
        vae = load_vae(first.folder / "model" / "vae").to(device).requires_grad_(False)
        student = load_unet(first.folder / "model" / "unet").to(device)
        config = config.sharpening
    before = copy.deepcopy((vae, student)) if config.sharpen else (vae, student)
    figures = trained_student(config, run, (vae, student), targets, extras, report)
    for network, first in zip((vae, student), before, strict=True):
        go_back_(network, first, 1 - config.sharpen_share)
    run.save(finished_generator(config, vae, student), "model")
    return figures
