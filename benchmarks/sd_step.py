"""Optimiser steps of SD 1.5 at full size, and their memory beside what the plan says.

The joint step of expand-unet (Eqs. 5 and 4) through the training loop: U-Net and autoencoder with
16 channels, a frozen 16-channel teacher, random weights, float32, batch 1, gradient checkpointing,
no moving average, on the CPU. Exits with 1 where the peak passes 22 GiB.

python benchmarks/sd_step.py [CROP]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tocsr.config import DataConfig, OptimConfig, Source
from tocsr.data.images import Batch
from tocsr.diffusion import NoiseSchedule
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.memory import TrainingMemory, training_memory
from tocsr.models.vae import widened
from tocsr.options import read_config
from tocsr.runs import Run
from tocsr.train.expand_unet import joint_loss
from tocsr.train.loop import fit
from tocsr.train.teacher_latents import TeacherLatents

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tocsr.train.configs import ExpandUnetConfig

LIMIT_GIB = 22
TRAINED = ["unet", "vae"]


def settings(crop: int) -> ExpandUnetConfig:
    """The paper's expand-unet, made small enough in all but its networks."""
    config = read_config("expand-unet", ["--preset=paper"])[0]
    optim = OptimConfig(
        lr=1e-5,
        num_steps=2,  # the moments are there from the second one on
        batch_size=1,
        ema_decay=0,
        log_every=1,
        gradient_checkpointing=True,
    )
    data = DataConfig(sources=[Source(path="builtin")], crop=crop)
    return replace(config, optim=optim, data=data)


def networks_on_meta() -> dict[str, Any]:
    """SD 1.5's U-Net and autoencoder with 16 channels, and their teacher, without data."""
    with torch.device("meta"):
        teacher = base_vae("paper", "vae_teacher")
        vae = widened(base_vae("paper", "vae"), teacher)
        return {"unet": base_unet("paper", latent_channels=16), "vae": vae, "vae_teacher": teacher}


@torch.no_grad()
def fill_(network: nn.Module) -> None:
    """Random weights in one pass: normal over the root of the fan-in, norms 1, biases 0."""
    network.to_empty(device="cpu")
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def loss(config: ExpandUnetConfig, networks: Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
    """L_diff + L_vae of a batch, as the phase computes it."""
    target = TeacherLatents(networks["vae_teacher"])(batch)
    return joint_loss(
        config, networks["unet"], networks["vae"], None, target, NoiseSchedule(), batch
    )


def planned(config: ExpandUnetConfig, networks: Mapping[str, Any]) -> TrainingMemory:
    """What `tocsr expand-unet --dry-run` counts for these settings."""

    def micro_batch(networks: Mapping[str, Any], images: Tensor) -> Tensor:
        return loss(config, networks, Batch(images, list(range(len(images))), []))["loss"]

    return training_memory(networks, TRAINED, micro_batch, config.optim, config.data.crop)


def row(name: str, num_bytes: float) -> None:
    print(f"| {name} | {num_bytes / 2**30:.2f} |", flush=True)


def peak() -> int:
    """The most that this process ever held in memory, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int:
    """What it holds now, in bytes; what it held at most where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line[:6] == "VmRSS:"), peak())


def main() -> None:
    config = settings(int(sys.argv[1]) if len(sys.argv) > 1 else 256)
    networks = networks_on_meta()
    plan = planned(config, networks)
    program = resident()
    print("| planned | GiB |\n|---|---|")
    parts = {
        **{f"weights of {name}": size for name, size in plan.weights.items()},
        "gradients": plan.gradients,
        "moments": plan.moments,
        **{f"kept by {name}": size for name, size in plan.step.kept.items()},
        **{f"{name}, passing": size for name, size in plan.step.passing.items()},
        "forward and backward pass with gradients, at most": plan.step.peak,
        "at most": plan.peak,
    }
    for name, size in parts.items():
        row(name, size)
    torch.manual_seed(0)
    for name, network in networks.items():
        fill_(network.requires_grad_(name in TRAINED))
    print("\n| measured | GiB |\n|---|---|")
    row("the program before the networks", program)
    row("with the networks", resident())
    started = [time.perf_counter()]

    def report(label: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        now = time.perf_counter()
        row(
            f"peak after step {done}, {now - started[-1]:.0f} s, loss {figures['loss']:.3f}", peak()
        )
        started.append(now)

    with tempfile.TemporaryDirectory() as folder:
        fit(
            Run(Path(folder)),
            "sd_step",
            {name: networks[name] for name in TRAINED},
            partial(loss, config, networks),
            data=config.data,
            optim=config.optim,
            seed=config.seed,
            device=torch.device("cpu"),
            report=report,
        )
        row(f"peak after the checkpoint, {time.perf_counter() - started[-1]:.0f} s", peak())
        row("the checkpoint on disk", Run(Path(folder)).checkpoint.stat().st_size)
    print(f"\nplanned / measured without the program: {plan.peak / (peak() - program):.3f}")
    if peak() > LIMIT_GIB * 2**30:
        sys.exit(f"the peak must stay below {LIMIT_GIB} GiB")


if __name__ == "__main__":
    main()
