"""Autoencoders: pixels to latents and back, and the widening of the latent (Eqs. 1 to 4, 17, 19).

Legend: B batch, H W pixels, Z latent channels, h = H / 8, w = W / 8. Images are in [-1, 1].
Latents between networks are scaled: (E(x) - shift) * scale, about unit variance per channel.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from diffusers import AutoencoderKL, AutoencoderTiny, ConfigMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.config import require
from tocsr.models.base import AlignedModel
from tocsr.models.layers import load_matching_
from tocsr.models.local_autoencoder import LocalAutoencoder
from tocsr.models.taesd import TinyAutoencoder

LATENT_STRIDE = 8  # f


Autoencoder: TypeAlias = AutoencoderKL | AutoencoderTiny | LocalAutoencoder | TinyAutoencoder


def encode(vae: Autoencoder, x: Tensor) -> Tensor:
    """Z = E(x), unscaled; the mode where the encoder gives a distribution (Eqs. 1, 3).

    Shape:
        (B, 3, H, W) in [-1, 1] -> (B, Z, H/8, W/8).
    """
    encoded: Any = vae.encode(x)
    if isinstance(vae, AutoencoderTiny):
        return encoded.latents
    return encoded if isinstance(encoded, Tensor) else encoded.latent_dist.mode()


def decode(vae: Autoencoder, z: Tensor) -> Tensor:
    """D(z) of an unscaled latent, (B, Z, h, w) -> (B, 3, 8h, 8w), about [-1, 1]."""
    decoded = vae.decode(z)
    return decoded if isinstance(decoded, Tensor) else decoded.sample


def decoder_parts(vae: Autoencoder) -> list[nn.Module]:
    """The modules that `decode` runs through and `encode` does not."""
    names = ("post_quant_conv", "conv_in", "decoder", "output")
    return [part for name, part in vae.named_children() if name in names]


def with_output_layers(vae: Autoencoder, width: int) -> LocalAutoencoder:
    """The autoencoder with `OutputLayers` of that width, which change nothing yet.

    Raises:
        TocsrError: It is not a `LocalAutoencoder`, or has such layers of another width.
    """
    has = getattr(vae.config, "output_width", None)
    require(
        isinstance(vae, LocalAutoencoder) and has in (0, width),
        f"output_width {width} needs a LocalAutoencoder without output layers, or of that width, "
        f"got {type(vae).__name__} of {has or 0}",
        "set output_width to 0",
    )
    if has == width:
        return vae  # type: ignore[return-value]
    own = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    extended = LocalAutoencoder(**{**own, "output_width": width})
    extended.load_state_dict(
        vae.state_dict()
        | {f"output.{name}": value for name, value in extended.output.state_dict().items()}
    )
    return extended.to(vae.device)


def reconstruct(vae: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """The latent and the image it decodes to: z_T = E_T(x), x_T = D_T(z_T) (Eq. 2)."""
    latent = encode(vae, x)
    return latent, decode(vae, latent)


def scaled(vae: Autoencoder, z: Tensor) -> Tensor:
    """A latent as `encode` gives it -> about unit variance, float32."""
    return (z.float() - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def pixels_to_latents(vae: Autoencoder, x: Tensor) -> Tensor:
    """z_0 = E(x_HR), scaled to about unit variance, float32 (Eq. 17)."""
    return scaled(vae, encode(vae, x))


def latents_to_pixels(vae: Autoencoder, z: Tensor) -> Tensor:
    """D of a scaled latent, about [-1, 1]."""
    return decode(vae, z / vae.config.scaling_factor + (vae.config.shift_factor or 0.0))


def upsample(x: Tensor, factor: int) -> Tensor:
    """up(x): bicubic (a = -0.5, as in Pillow and MATLAB), (B, C, H, W) -> (B, C, fH, fW)."""
    return F.interpolate(x, scale_factor=factor, mode="bicubic", antialias=True)


def lr_to_latents(vae: Autoencoder, lr: Tensor, factor: int) -> Tensor:
    """z_LR = E(up(x_LR)), scaled (Eq. 19)."""
    return pixels_to_latents(vae, upsample(lr, factor))


def reconstruction_loss(restored: Tensor, x: Tensor, norm: str = "l1") -> Tensor:
    """L_rec(D(E(x)), x) of images (B, 3, H, W) in [-1, 1], the mean over elements (Eq. 4).

    Args:
        restored: D(E(x)).
        x: What it is to be.
        norm: `l1`, the mean absolute error, or `mse`, the mean squared error.
    """
    return (F.mse_loss if norm == "mse" else F.l1_loss)(restored.float(), x)


def latent_distillation_loss(
    latent: Tensor,
    target: Tensor,
    restored: Tensor,
    x: Tensor,
    rec_weight: float,
    rec_norm: str = "l1",
) -> dict[str, Tensor]:
    """L_vae = || E_S(x) - E_T(x) ||^2 + lambda L_rec(D_S(E_S(x)), x) (Eq. 4).

    The means are over elements and the latents are scaled to about unit variance, so that lambda
    means the same for every teacher.

    Args:
        latent: The student's (B, Z, h, w), scaled, or what `LatentMap` makes of it.
        target: The teacher's, scaled, of the same shape.
        restored: D_S(E_S(x)).
        x: (B, 3, H, W) in [-1, 1].
        rec_weight: lambda.
        rec_norm: As in `reconstruction_loss`.

    Returns:
        `loss`, and its terms `latent` and `rec`.
    """
    latent_term = F.mse_loss(latent.float(), target)
    rec_term = reconstruction_loss(restored, x, rec_norm)
    return {"loss": latent_term + rec_weight * rec_term, "latent": latent_term, "rec": rec_term}


class LatentMap(AlignedModel, ConfigMixin):
    """A 1x1 convolution from a student's unscaled latents to a teacher's scaled ones.

    Not in the paper, whose teacher has as many channels as the student. Trained with the student,
    it lets Eq. 4 compare latents of another number of channels.

    Args:
        student_channels: Z of the student.
        teacher_channels: Z of the teacher.

    Shape:
        (B, student_channels, h, w) -> (B, teacher_channels, h, w).
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.gradient_checkpointing = False  # diffusers asks; there is nothing to compute again
        self.conv = nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.conv(z)


def reconstruct_with_loss(
    student: Autoencoder,
    latent_map: LatentMap | None,
    target: Tensor,
    x: Tensor,
    rec_weight: float,
    rec_norm: str = "l1",
) -> tuple[Tensor, dict[str, Tensor]]:
    """One pass of the student: its scaled latent (B, Z, h, w), and Eq. 4 with its terms.

    Args:
        student: E_S and D_S.
        latent_map: Between latents of different numbers of channels; None where they agree.
        target: E_T(x), scaled.
        x: (B, 3, H, W) in [-1, 1].
        rec_weight: lambda.
        rec_norm: As in `reconstruction_loss`.
    """
    z, restored = reconstruct(student, x)
    latent = scaled(student, z)
    compared = latent_map(z) if latent_map else latent
    return latent, latent_distillation_loss(compared, target, restored, x, rec_weight, rec_norm)


def widened(vae: Autoencoder, teacher: Autoencoder, latent_channels: int = 0) -> Autoencoder:
    """The student: `vae` with another number of latent channels and the teacher's scaling (Eq. 3).

    Every weight that keeps its shape is copied bitwise; the convolutions at the latent start anew.

    Args:
        vae: The base autoencoder.
        teacher: Whose latents the student is to learn.
        latent_channels: Z of the student; 0 takes the teacher's.
    """
    # without diffusers' private notes, which would set what is given here back to its default
    own = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    config = {
        **own,
        "latent_channels": latent_channels or teacher.config.latent_channels,
        "scaling_factor": teacher.config.scaling_factor,
        "shift_factor": teacher.config.shift_factor,
    }
    student = type(vae).from_config(config)
    load_matching_(student, vae)
    return student
