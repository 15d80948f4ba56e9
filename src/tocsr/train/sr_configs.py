"""Settings of the super-resolution phases, `train-sr` and `distill`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from tocsr.config import DataConfig, OptimConfig, PhaseConfig, require, require_at_least
from tocsr.preset_files import SHIPPED_MODEL
from tocsr.restoration import TaskConfig


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


LOSSES = ("distill", "pixel", "perceptual", "latent", "grid", "adversarial")


@dataclass(frozen=True, kw_only=True)
class DistillConfig(PhaseConfig):
    """Distil the multi-step super-resolver into one step (Eqs. 22, 23).

    Args:
        data: Photos and crops.
        task: What is restored; the same as in train-sr.
        optim: The training.
        start: Not in the paper: a finished one-step model that the student and its decoder go on
            from, in place of what `train-sr` made: its folder, or `shipped` for the one in the
            package. Without a teacher, so `distill_weight` must be 0; what it predicts and hears of
            the noise stays, whatever `prediction` and `noise_share` say.
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
            with the student, by the losses that see pixels; or of it the output layers alone.
        output_width: Not in the paper: channels of layers at full resolution that the decoder gets;
            0 is none.
        distill_weight: Weight of the paper's own loss (Eq. 23); 0 is off, and the
            teacher is not sampled.
        pixel_weight: Not in the paper: weight of an L1 loss between the decoded student's result
            and the photo; 0 is off.
        perceptual_weight: Not in the paper: weight of a perceptual distance between the same two;
            0 is off.
        perceptual: What measures it: `encoder`, features of the frozen autoencoder's encoder; or a
            safetensors file of weights of ST-LPIPS.
        perceptual_crop: Side in pixels of the random square that it looks at; 0 is all.
        latent_weight: Not in the paper: weight of the mean squared error between the student's
            latent and the photo's; 0 is off.
        grid_weight: Not in the paper: weight of how much more of its detail the result repeats
            from cell to cell of the latent than the photo does; 0 is off.
        adversarial_weight: Not in the paper: weight of an adversarial loss, by a discriminator that
            trains beside the student; 0 is off.
        adversarial: What that one sees: latents, given z_LR, or the detail of pixels.
        discriminator_lr_factor: Its learning rate over the student's: one that starts anew beside a
            student that is nearly finished has to learn faster.
        sharpen: Not in the paper: whether the perceptual, grid and adversarial losses wait for a
            second training, which goes on from the student of the first.
        sharpen_optim: That training.
        sharpen_decoder: Whether the decoder goes on as in the first training, or stays as that one
            left it; or its output layers alone go on.
        sharpen_share: How far the saved weights go from the first training's, 0, to the second's, 1
            (network interpolation, Wang et al. 2018): more of it is sharper and less faithful.
    """

    verb: ClassVar[str] = "distill"

    data: DataConfig
    task: TaskConfig = field(default_factory=TaskConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    start: str = ""
    num_denoise_steps: int = 15
    targets: Literal["cached", "on-the-fly"] = "cached"
    num_targets: int = 1024
    clip: float = 0.0
    prediction: Literal["teacher", "noise", "clean"] = "teacher"
    noise_share: float = 1.0
    decoder: Literal["frozen", "trained", "output"] = "frozen"
    output_width: int = 0
    distill_weight: float = 1.0
    pixel_weight: float = 0.0
    perceptual_weight: float = 0.0
    perceptual: str = "encoder"
    perceptual_crop: int = 0
    latent_weight: float = 0.0
    grid_weight: float = 0.0
    adversarial_weight: float = 0.0
    adversarial: Literal["latents", "pixels"] = "latents"
    discriminator_lr_factor: float = 1.0
    sharpen: bool = False
    sharpen_optim: OptimConfig = field(default_factory=OptimConfig)
    sharpen_decoder: Literal["same", "frozen", "output"] = "same"
    sharpen_share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(1, self, "num_denoise_steps")
        for name in ("optim", "sharpen_optim") if self.sharpen else ("optim",):
            size = getattr(self, name).batch_size
            whole_batches = self.num_targets > 0 and self.num_targets % size == 0
            require(
                whole_batches or self.target_source != "cached",
                f"num_targets must be a multiple of {name}.batch_size, got {self.num_targets} and "
                f"{size}",
            )
        require(
            0 <= self.sharpen_share <= 1,
            f"sharpen_share must be in [0, 1], got {self.sharpen_share}",
        )
        require(
            0 < self.discriminator_lr_factor < float("inf"),
            f"discriminator_lr_factor must be above 0, got {self.discriminator_lr_factor}",
        )
        trained = (self.decoder, self.sharpen_decoder if self.sharpen else "")
        require(
            self.output_width > 0 or bool(self.start) or "output" not in trained,
            "output_width must be above 0 where the decoder's output layers are trained, got "
            f"{self.output_width}",
        )
        require_at_least(
            0, self, "output_width", "noise_share", *(f"{name}_weight" for name in LOSSES)
        )
        require(
            any(getattr(self.faithful, f"{name}_weight") for name in LOSSES),
            "one of the losses must have a weight above 0"
            + (", of distill, pixel and latent, as the others wait" if self.sharpen else ""),
        )
        require(
            self.decoder == "frozen" or self.faithful.sees_pixels,
            "decoder must be frozen where no loss sees pixels",
            "set pixel_weight, or without sharpen another weight of a loss that does",
        )
        require(
            not (self.start and self.distill_weight),
            f"distill_weight must be 0 where a finished model is the start, got "
            f"{self.distill_weight:g}",
            "a start has no teacher: give pixel_weight and others a weight",
        )
        # a multiple of 8 for the encoder, at least 32 for ST-LPIPS
        side, crop = self.perceptual_crop, self.data.crop
        require(
            side == 0 or (side % 8 == 0 and 32 <= side <= crop),
            f"perceptual_crop must be 0, or a multiple of 8 from 32 to data.crop, got {side} and "
            f"{crop}",
        )
        require(
            self.grid_weight == 0 or (crop % 16 == 0 and crop >= 64),
            f"data.crop must be a multiple of 16 and at least 64 for a grid loss, got {crop}",
            "set grid_weight to 0",
        )

    @property
    def start_folder(self) -> Path | None:
        """The finished model that the training goes on from, if one is named."""
        return {"": None, "shipped": SHIPPED_MODEL}.get(self.start, Path(self.start))

    @property
    def target_source(self) -> Literal["cached", "on-the-fly", "none"]:
        """Where the teacher's results come from, where they are asked for."""
        return self.targets if self.distill_weight else "none"

    @property
    def faithful(self) -> DistillConfig:
        """The settings of the first training."""
        if not self.sharpen:
            return self
        return replace(
            self, sharpen=False, perceptual_weight=0.0, grid_weight=0.0, adversarial_weight=0.0
        )

    @property
    def sharpening(self) -> DistillConfig:
        """The settings of the second training."""
        decoder = self.decoder if self.sharpen_decoder == "same" else self.sharpen_decoder
        return replace(self, optim=self.sharpen_optim, decoder=decoder)

    @property
    def sees_pixels(self) -> bool:
        """Whether a loss asks for the decoded result."""
        judge = self.adversarial_weight and self.adversarial == "pixels"
        return bool(self.pixel_weight or self.perceptual_weight or self.grid_weight or judge)
