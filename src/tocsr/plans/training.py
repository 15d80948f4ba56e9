"""The trainings of a phase: their steps, and what a step needs of memory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tocsr.data.images import Batch
from tocsr.diffusion import NoiseSchedule
from tocsr.models.compact import num_params
from tocsr.models.discriminator import discriminator
from tocsr.models.memory import training_memory
from tocsr.models.perceptual import EncoderDistance, ShiftTolerantLPIPS
from tocsr.models.vae import (
    LATENT_STRIDE,
    reconstruct,
    reconstruct_with_loss,
    reconstruction_loss,
)
from tocsr.train.distill import student_loss
from tocsr.train.expand_unet import joint_loss
from tocsr.train.one_step_losses import Extras
from tocsr.train.pretrain import latent_denoising_loss
from tocsr.train.teacher_latents import TeacherLatents
from tocsr.train.train_sr import sr_loss
from tocsr.train.trajectories import teacher_latent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from tocsr.config import OptimConfig


_FROZEN = ["vae", "sr_teacher", "perceptual"]  # from finetune on


def _trained(config: Any, training: str, networks: Mapping[str, Any]) -> list[str]:
    """The networks that a phase's training changes."""
    if config.verb == "pretrain":  # one training per network
        return [training]
    frozen = ["vae_teacher"] if config.verb in ("expand-vae", "expand-unet") else _FROZEN
    if config.verb == "distill" and config.decoder != "frozen":
        frozen = [name for name in frozen if name != "vae"]  # its encoder, which is not, counts too
    return [name for name in networks if name not in frozen]


def _loss(config: Any, training: str, networks: Mapping[str, Any], images: Tensor) -> Tensor:
    """What a training goes down, of a micro-batch of images: that of the phase itself."""
    batch, schedule = Batch(images, list(range(len(images))), []), NoiseSchedule()
    unet: Any
    vae: Any
    unet, vae, latent_map = (networks.get(name) for name in ("unet", "vae", "latent_map"))
    match config.verb, training:
        case ("pretrain", "unet") | ("finetune", _):
            return latent_denoising_loss(unet, vae, schedule, batch, config.seed)
        case "pretrain", name:
            restored = reconstruct(networks[name], images)[1]
            return reconstruction_loss(restored, images, config.rec_norm)
        case "expand-vae", _:
            target = TeacherLatents(networks["vae_teacher"])(batch)
            weight, norm = config.rec_weight, config.rec_norm
            return reconstruct_with_loss(vae, latent_map, target, images, weight, norm)[1]["loss"]
        case "expand-unet", _:
            target = TeacherLatents(networks["vae_teacher"])(batch)
            return joint_loss(config, unet, vae, latent_map, target, schedule, batch)["loss"]
        case "train-sr", _:
            return sr_loss(config, unet, vae, schedule, batch)
        case "distill", _:
            extras = Extras(networks.get("perceptual"), networks.get("discriminator"))
            if config.perceptual_weight and not extras.perceptual:
                extras = replace(extras, perceptual=EncoderDistance(vae))
            targets = partial(_target, config, networks.get("sr_teacher"))
            return student_loss(config, unet, vae, schedule, targets, batch, extras)["loss"]
    raise ValueError(f"{config.verb} has no training {training}")


def _target(config: Any, sr_teacher: Any, batch: Batch, lr_latent: Tensor, noise: Tensor) -> Tensor:
    """What stands for z0_teacher of a batch: sampled, or as if read."""
    return teacher_latent(config, sr_teacher, lr_latent, noise) if sr_teacher else noise.clone()


def _helpers(config: Any, networks: Mapping[str, Any]) -> dict[str, Any]:
    """What the training of a phase needs besides its networks, on the meta device."""
    found: dict[str, Any] = {}
    if config.verb != "distill":
        return found
    if config.target_source == "on-the-fly":
        found["sr_teacher"] = networks["unet"]
    if config.perceptual_weight and config.perceptual != "encoder":
        weights = Path(config.perceptual)
        found["perceptual"] = ShiftTolerantLPIPS.from_file(weights).to("meta")
    if config.adversarial_weight:
        with torch.device("meta"):
            channels = networks["unet"].latent_channels
            found["discriminator"] = discriminator(config.adversarial, channels)
    return found


def _target_row(config: Any, channels: int) -> str:
    """Where the teacher's results come from, and what they take."""
    if config.target_source == "none":
        return "none: distill_weight is 0"
    if config.target_source == "on-the-fly":
        return f"{config.num_denoise_steps} calls of the teacher with every batch, nothing on disk"
    side = config.data.crop // LATENT_STRIDE
    num_bytes = 2 * config.num_targets * channels * side**2  # float16
    return f"{config.num_targets:,} kept, {_gib(num_bytes)} on disk and in memory"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


def _gib_by_part(parts: Mapping[str, int]) -> str:
    cells = ", ".join(f"{name} {_gib(num_bytes)}" for name, num_bytes in parts.items())
    return f"{_gib(sum(parts.values()))} ({cells})"


def _memory_rows(config: Any, training: str, networks: Mapping[str, Any]) -> dict[str, str]:
    """What the step of a training takes, by part, on one process."""
    optim: OptimConfig = getattr(config, training)
    trained = _trained(config, training, networks)
    called = [*networks]
    if config.verb == "pretrain":  # one network after the other, the U-Net on the vae's latents
        called = ["unet", "vae"] if training == "unet" else [training]
    memory = training_memory(
        {name: networks[name] for name in called},
        trained,
        lambda nets, images: _loss(config, training, nets, images),
        optim,
        config.data.crop,
    )
    size, crop = optim.batch_size // optim.accumulation, config.data.crop
    again = "on" if optim.gradient_checkpointing else "off"
    rows = {
        "micro-batch": f"{size} x 3 x {crop} x {crop}, {optim.precision}, "
        f"gradient checkpointing {again}",
        "weights": _gib_by_part(memory.weights),
        "gradients": _gib(memory.gradients),
        "moments": _gib(memory.moments),
        "average": _gib(memory.average),
        "images": _gib(memory.images),
        "activations kept": _gib_by_part(memory.step.kept),
    }
    if memory.step.passing:
        rows["without gradients"] = _gib_by_part(memory.step.passing)
    peak = f"{_gib(memory.peak)}, the buffers of kernels and allocator not counted"
    return {**rows, "most at once": peak}


def training_rows(
    config: Any, training: str, networks: Mapping[str, Any], step: bool
) -> dict[str, str]:
    """Steps, samples and memory; where no step is counted, four copies of the weights or five."""
    if config.verb == "distill" and training == "optim":
        config = config.faithful
    optim: OptimConfig = getattr(config, training)
    samples = optim.num_steps * optim.batch_size
    rows = {"steps": f"{optim.num_steps:,} of {optim.batch_size}, {samples:,} samples"}
    if config.verb == "calibrate":  # it trains none of these networks
        return rows
    if config.verb == "distill":
        rows["teacher's results"] = _target_row(config, networks["unet"].latent_channels)
    networks = {**networks, **_helpers(config, networks)}
    if step:
        return rows | _memory_rows(config, training, networks)
    params = sum(num_params(networks[name]) for name in _trained(config, training, networks))
    copies = 5 if optim.ema_decay else 4
    return rows | {
        "memory": f"{_gib(copies * 4 * params)} of weights, gradients, moments and average, "
        "activations not counted"
    }
