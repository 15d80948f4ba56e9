"""What all phases are told: where, on what, by which training.

Imports nothing heavy, so that `--help` is instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tocsr.errors import TocsrError


def require(holds: bool, message: str, hint: str = "") -> None:
    """Raises a usage error that says `message` unless the condition `holds`."""
    if not holds:
        raise TocsrError(message, hint)


def require_at_least(least: int, config: object, *names: str) -> None:
    """Raises a usage error unless each of these fields of a configuration is at least so much."""
    for name in names:
        value = getattr(config, name)
        require(value >= least, f"{name} must be at least {least}, got {value}")


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """What every phase is told.

    Args:
        preset: Name of a shipped preset, or a folder of the same layout.
        runs: Folder that holds one run folder per phase; phases meet there.
        seed: Seed of weights, crops, noise and timesteps.
        device: Where to compute: auto, cpu, cuda, cuda:N or mps.
        num_threads: CPU threads; 0 takes all cores.
    """

    verb: ClassVar[str]

    preset: str = "tiny"
    runs: Path = Path("runs/tiny")
    seed: int = 0
    device: str = "auto"
    num_threads: int = 0

    def __post_init__(self) -> None:
        require_at_least(0, self, "seed")

    @property
    def folder(self) -> Path:
        """The run folder of this phase."""
        return self.runs / self.verb


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """One training: an optimiser, a learning rate with warm-up, a moving average of the weights.

    Args:
        optimizer: AdamW, or Muon (not in the paper), which takes more time a step and fewer steps.
        lr: Peak learning rate.
        num_steps: Optimiser steps.
        batch_size: Samples per optimiser step, over all processes.
        accumulation: Micro-batches that one optimiser step is split into.
        warmup_steps: Steps over which the learning rate rises from 0.
        schedule: What the learning rate does after warm-up: falls to 0 along a cosine, or stays.
        weight_decay: Decoupled weight decay.
        max_grad_norm: Gradients are scaled down to this norm; 0 leaves them.
        ema_decay: Decay per step of the moving average that is saved; 0 saves the last weights.
        precision: Arithmetic of the forward pass; bf16 runs under autocast.
        checkpoint_every: Steps between two checkpoints of the full state.
        log_every: Steps between two lines of metrics.jsonl.
        gradient_checkpointing: Computes activations a second time in the backward pass instead of
            keeping them: less memory, more time, the same result.
        tensorboard: Logs to TensorBoard's files too, in the run folder's `tensorboard`.
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-4
    num_steps: int = 1000
    batch_size: int = 16
    accumulation: int = 1
    warmup_steps: int = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every: int = 200
    log_every: int = 10
    gradient_checkpointing: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        counts = ("num_steps", "batch_size", "accumulation", "checkpoint_every", "log_every")
        require_at_least(1, self, *counts)
        require(self.lr > 0, f"lr must be above 0, got {self.lr}")
        require(0 <= self.ema_decay < 1, f"ema_decay must be in [0, 1), got {self.ema_decay}")
        require(
            self.batch_size % self.accumulation == 0,
            f"batch_size must be a multiple of accumulation, got {self.batch_size} "
            f"and {self.accumulation}",
        )


@dataclass(frozen=True, kw_only=True)
class Source:
    """One folder of photos, the WebDataset shards of one data set, or pairs, in a mixture.

    Args:
        path: Folder of photos or of .tar shards, searched with its subfolders; or a shard, or
            shards by braces, NAME-{000000..000084}.tar; `builtin` means the photos in the package.
            A folder that holds hr and lr is one of pairs.
        lr: Folder of a low-resolution image for each photo in the folder `path`, of the same name,
            which then stands in for one made by the task's degradation; empty for photos alone.
        weight: Share of the samples, relative to the other sources.
        limit: Takes only the first so many photos by name, or in the order of the shards; 0 takes
            all.
    """

    path: str
    lr: str = ""
    weight: float = 1.0
    limit: int = 0

    def __post_init__(self) -> None:
        require(
            0 < self.weight < float("inf"),
            f"the weight of data source '{self.path}' must be above 0, got {self.weight}",
            "leave the source out to take nothing from it",
        )
        require(
            self.limit >= 0,
            f"the limit of data source '{self.path}' must be at least 0, got {self.limit}",
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Photos and the crops taken from them.

    Args:
        sources: Folders of photos or of pairs, or WebDataset shards, with their weights and limits.
        fraction: Share of each source that is used, after its limit, in (0, 1].
        crop: Side of the square crops in high-resolution pixels.
        align: Crops begin at multiples of so many pixels; 8 puts them on the grid of latents.
        cache_mb: Memory for decoded photos, in MiB for each process that reads.
        num_workers: Processes that read photos; 0 reads in the training process.
    """

    sources: list[Source]
    fraction: float = 1.0
    crop: int = 128
    align: int = 1
    cache_mb: int = 2048
    num_workers: int = 0

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "data.sources must name at least one source of photos")
        require(0 < self.fraction <= 1, f"data.fraction must be in (0, 1], got {self.fraction}")
        require(
            self.crop > 0 and self.crop % 64 == 0,
            f"data.crop must be a positive multiple of 64 pixels, got {self.crop}",
        )
        require(self.align >= 1, f"data.align must be at least 1 pixel, got {self.align}")
