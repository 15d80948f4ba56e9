"""What each training phase is told; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from tocsr.config import DataConfig, OptimConfig, PhaseConfig, require, require_at_least
from tocsr.train.sr_configs import (  # noqa: F401, where verbs look for them
    DistillConfig,
    TrainSrConfig,
)

RecNorm = Literal["l1", "mse"]
Start = Literal["random", "repeat", "zero", "least-squares"]


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(PhaseConfig):
    """Train base networks from scratch, where no Stable Diffusion is given.

    Args:
        data: Photos and crops.
        vae: Training of the 4-channel autoencoder.
        vae_teacher: Training of the 16-channel autoencoder.
        unet: Training of the 4-channel U-Net.
        rec_norm: Norm of the reconstruction loss: l1, or mse, which gives more PSNR.
        num_scale_crops: Crops that the latents' shift and scale are measured on.
    """

    verb: ClassVar[str] = "pretrain"

    data: DataConfig
    rec_norm: RecNorm = "l1"
    vae: OptimConfig = field(default_factory=OptimConfig)
    vae_teacher: OptimConfig = field(default_factory=OptimConfig)
    unet: OptimConfig = field(default_factory=OptimConfig)
    num_scale_crops: int = 128


@dataclass(frozen=True, kw_only=True)
class ExpandVaeConfig(PhaseConfig):
    """Distil a 16-channel autoencoder into the base autoencoder (Eqs. 2 to 4).

    Args:
        vae: The base autoencoder: a folder, a single .safetensors file, or hf://OWNER/NAME/SUBFOLDER
            from the hub; empty takes what pretrain made.
        vae_teacher: The 16-channel autoencoder, likewise.
        start: How the convolutions start that change their width: as constructed, from the base's
            repeated, the base's and zeros, or by least squares on a batch of latents.
        latent_channels: Z of the student; a teacher of another number of channels is matched
            through a learned 1x1 map.
        data: Photos and crops.
        optim: The training.
        cache_teacher: Computes the teacher's latents once a photo and keeps them on disk; crops
            then begin at multiples of 8 pixels. Pays where every photo is seen several times.
        rec_weight: lambda, weight of the reconstruction loss.
        rec_norm: Norm of the reconstruction loss: l1, or mse, which gives more PSNR.
    """

    verb: ClassVar[str] = "expand-vae"

    vae: str = ""
    vae_teacher: str = ""
    start: Start = "least-squares"
    latent_channels: int = 16
    data: DataConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    cache_teacher: bool = False
    rec_weight: float = 1.0
    rec_norm: RecNorm = "l1"


@dataclass(frozen=True, kw_only=True)
class ExpandUnetConfig(PhaseConfig):
    """Widen the U-Net's ends and fine-tune it with the 16-channel autoencoder (Eqs. 5, 4).

    Args:
        unet: The base U-Net: a folder, a single .safetensors file, or hf://OWNER/NAME/SUBFOLDER
            from the hub; empty takes what pretrain made.
        vae: The autoencoder whose latents the base U-Net denoises, likewise; the start asks for it.
        vae_teacher: The 16-channel autoencoder, likewise.
        adapter: How the ends are widened: v1, v2 or v3 of the paper's table S4.
        start: How the widened ends start, as in expand-vae.
        data: Photos and crops.
        optim: The training.
        cache_teacher: As in expand-vae, whose cache it shares.
        vae_weight: Weight of the autoencoder's loss beside the diffusion loss.
        rec_weight: lambda in the autoencoder's loss.
        rec_norm: Norm of the reconstruction loss, as in expand-vae.
        detach_latents: Whether the diffusion loss leaves the encoder alone.
    """

    verb: ClassVar[str] = "expand-unet"

    unet: str = ""
    vae: str = ""
    vae_teacher: str = ""
    adapter: Literal["v1", "v2", "v3"] = "v2"
    start: Start = "least-squares"
    data: DataConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    cache_teacher: bool = False
    vae_weight: float = 1.0
    rec_weight: float = 1.0
    rec_norm: RecNorm = "l1"
    detach_latents: bool = True


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(PhaseConfig):
    """Train every surrogate block on the teacher's own features (Eqs. 7, 8).

    Args:
        data: Photos and crops; the paper takes a quarter of its training data.
        optim: The training of each surrogate, which goes on by itself.
        local_only: Leaves out variants with an unbounded receptive field.
        group_params: Parameters of the surrogates that train together from one teacher pass, at
            most; 0 takes all at once. One takes up to 16 bytes of the device (weight, moments,
            average), and with patience 4 more of main memory. No result depends on it.
        check_every: Optimiser steps between two checks for an early stop.
        patience: Checks over which a surrogate's loss must fall by `min_gain`, or it stops and
            keeps its best average; 0 never stops. Needs a constant learning rate, since the end of
            a falling one is where most is gained.
        min_gain: Least fall over these checks, relative to the loss.
        num_checked: Crops that a check measures the loss on, neither trained on nor held out.
        num_heldout: Crops, other than those trained on, that each surrogate's error is measured on.
        workers: Groups that train side by side, each in a process; 1 trains in this one.
        ray: A Ray cluster whose processes these are: `auto` for the one this machine is in, an
            address, or `local` to start one; empty for this machine's own processes.
    """

    verb: ClassVar[str] = "calibrate"

    data: DataConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    local_only: bool = False
    group_params: int = 0
    check_every: int = 100
    patience: int = 0
    min_gain: float = 0.01
    num_checked: int = 16
    num_heldout: int = 64
    workers: int = 1
    ray: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(0, self, "group_params", "patience")
        require_at_least(1, self, "check_every", "num_checked", "num_heldout")
        require(0 <= self.min_gain < 1, f"min_gain must be in [0, 1), got {self.min_gain}")
        require(
            not self.patience or self.optim.schedule == "constant",
            f"patience must be 0 where the learning rate falls, got {self.patience} and "
            f"optim.schedule {self.optim.schedule}: an early stop would leave its end out",
            "set optim.schedule to constant, or patience to 0",
        )
        require(
            not self.optim.gradient_checkpointing,
            "optim.gradient_checkpointing must be off in calibrate, where one surrogate at a time "
            "keeps activations",
            "for less memory take more optim.accumulation",
        )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(PhaseConfig):
    """Fine-tune the selected compact U-Net end to end with the diffusion loss (Eq. 16).

    Args:
        data: Photos and crops.
        optim: The training.
    """

    verb: ClassVar[str] = "finetune"

    data: DataConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
