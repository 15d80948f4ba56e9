"""What each training phase is told; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from tocsr.config import DataConfig, OptimConfig, PhaseConfig, TaskConfig, require

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
        for name in ("group_params", "patience", "check_every", "num_checked", "num_heldout"):
            least = 0 if name in ("group_params", "patience") else 1
            value = getattr(self, name)
            require(value >= least, f"{name} must be at least {least}, got {value}")
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


@dataclass(frozen=True, kw_only=True)
class TrainSrConfig(PhaseConfig):
    """Train the compact U-Net as a conditional multi-step super-resolver (Eqs. 17 to 21).

    Args:
        data: Photos and crops.
        task: What is restored.
        optim: The training.
        prediction: What the U-Net is trained to predict: what the backbone predicts; the noise, as
            in the paper; or the velocity or the clean latent, from which little training makes a
            usable model. Its head starts anew where that is not what the backbone predicts.
        condition_start: How the input weights for z_LR start: zero, so that the first step predicts
            what the backbone predicts; or copied from those for z_t, which a head that starts anew
            needs to learn anything at the last timesteps.
    """

    verb: ClassVar[str] = "train-sr"

    data: DataConfig
    task: TaskConfig = field(default_factory=TaskConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    prediction: Literal["backbone", "noise", "velocity", "clean"] = "backbone"
    condition_start: Literal["zero", "copied"] = "zero"


@dataclass(frozen=True, kw_only=True)
class DistillConfig(PhaseConfig):
    """Distil the multi-step super-resolver into one step (Eqs. 22, 23).

    Args:
        data: Photos and crops.
        task: What is restored; the same as in train-sr.
        optim: The training.
        num_denoise_steps: Steps of the teacher's full sampling.
        targets: Where the teacher's results come from: computed once for `num_targets` samples and
            kept on disk, or computed with each batch, in the training's precision, and every
            sample a new one.
        num_targets: Samples whose cached results are trained on in turn.
        clip: Not in the paper: bound on the teacher's estimates of z_0 while it samples; 0 is none.
        prediction: What the student's U-Net predicts: what the teacher predicts, its head as it is;
            the noise, as in the paper; or the clean latent, as z_LR plus a residual. The head
            starts at zero where that is not what the teacher predicts.
        noise_share: Not in the paper: what the student's input weights for z_T are of the teacher's
            before the first step. In one step the noise says nothing about the image, and where it
            comes in as loud as z_LR little is learned.
        decoder: Not in the paper: whether the autoencoder's decoder stays as it was or is trained
            with the student, by the losses that see pixels.
        distill_weight: Weight of the paper's own loss (Eq. 23); 0 leaves it to the others.
        pixel_weight: Not in the paper: weight of an L1 loss between the decoded student's result
            and the photo; 0 is off.
        perceptual_weight: Not in the paper: weight of a perceptual distance between the same two;
            0 is off.
        perceptual: What measures it: `encoder`, features of the frozen autoencoder's encoder; or a
            safetensors file of weights of ST-LPIPS.
        perceptual_crop: Side in pixels of the random square that it looks at; 0 is all.
        latent_weight: Not in the paper: weight of the mean squared error between the student's
            latent and the photo's; 0 is off.
        grid_weight: Not in the paper: weight of what the result's error has of a grid of 8 x 8 pixels;
            0 is off.
        adversarial_weight: Not in the paper: weight of an adversarial loss, by a discriminator that
            trains beside the student; 0 is off.
        adversarial: What that one sees: latents, given z_LR, or pixels.
        sharpen: Not in the paper: whether the perceptual, grid and adversarial losses wait for a
            second training, which goes on from the student of the first.
        sharpen_optim: That training.
    """

    verb: ClassVar[str] = "distill"

    data: DataConfig
    task: TaskConfig = field(default_factory=TaskConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    num_denoise_steps: int = 15
    targets: Literal["cached", "on-the-fly"] = "cached"
    num_targets: int = 1024
    clip: float = 0.0
    prediction: Literal["teacher", "noise", "clean"] = "teacher"
    noise_share: float = 1.0
    decoder: Literal["frozen", "trained"] = "frozen"
    distill_weight: float = 1.0
    pixel_weight: float = 0.0
    perceptual_weight: float = 0.0
    perceptual: str = "encoder"
    perceptual_crop: int = 0
    latent_weight: float = 0.0
    grid_weight: float = 0.0
    adversarial_weight: float = 0.0
    adversarial: Literal["latents", "pixels"] = "latents"
    sharpen: bool = False
    sharpen_optim: OptimConfig = field(default_factory=OptimConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.num_denoise_steps >= 1,
            f"num_denoise_steps must be at least 1, got {self.num_denoise_steps}",
        )
        optims = [self.optim, self.sharpen_optim] if self.sharpen else [self.optim]
        for optim in optims:
            whole_batches = self.num_targets > 0 and self.num_targets % optim.batch_size == 0
            require(
                whole_batches or self.targets != "cached",
                f"num_targets must be a multiple of optim.batch_size, got {self.num_targets} and "
                f"{optim.batch_size}",
            )
        require(self.noise_share >= 0, f"noise_share must be at least 0, got {self.noise_share}")
        for name in ("distill", "pixel", "perceptual", "latent", "grid", "adversarial"):
            weight = getattr(self, f"{name}_weight")
            require(weight >= 0, f"{name}_weight must be at least 0, got {weight}")
        require(
            self.decoder == "frozen" or self.faithful.sees_pixels,
            "decoder must be frozen where no loss sees pixels",
            "set pixel_weight, or without sharpen another weight of a loss that does",
        )
        # a multiple of 8 for the encoder, at least 32 for ST-LPIPS
        side, crop = self.perceptual_crop, self.data.crop
        require(
            side == 0 or (side % 8 == 0 and 32 <= side <= crop),
            f"perceptual_crop must be 0, or a multiple of 8 from 32 to data.crop, got {side} and "
            f"{crop}",
        )

    @property
    def faithful(self) -> DistillConfig:
        """The settings of the first training."""
        if not self.sharpen:
            return self
        off = dict.fromkeys(("perceptual_weight", "grid_weight", "adversarial_weight"), 0.0)
        return replace(self, sharpen=False, **off)

    @property
    def sees_pixels(self) -> bool:
        """Whether a loss asks for the decoded result."""
        judge = self.adversarial_weight and self.adversarial == "pixels"
        return bool(self.pixel_weight or self.perceptual_weight or self.grid_weight or judge)
