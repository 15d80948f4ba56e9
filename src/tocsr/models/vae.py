"""Autoencoders: pixels to latents and back, and the widening of the latent (Eqs. 1 to 4, 17, 19).

Legend: B batch, H W pixels, Z latent channels, h = H / 8, w = W / 8. Images are in [-1, 1].
Latents between networks are scaled: (E(x) - shift) * scale, about unit variance per channel.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from diffusers import AutoencoderKL, ConfigMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.models.base import AlignedModel
from tocsr.models.surrogates import load_matching_

PIXEL_SHUFFLE = 4  # the autoencoder's first layers work at 1/4 of the resolution
LATENT_STRIDE = 8  # f


class _Block(nn.Module):
    """Two 3x3 convolutions added to their input; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def _blocks(channels: int, num: int) -> list[nn.Module]:
    return [_Block(channels) for _ in range(num)]


class LocalAutoencoder(AlignedModel, ConfigMixin):
    """A light autoencoder without normalisation or attention: f = 8, work at 1/4 and 1/8 only.

    Not in the paper: SD's autoencoder spends nine tenths of the whole model's operations at full
    resolution (tocsr profile --preset paper). Pixel-unshuffle by 4, residual blocks, and back.

    Args:
        latent_channels: Z.
        widths: Channels at 1/4 and at 1/8 of the resolution.
        num_encoder_blocks: The encoder's residual blocks at each of the two resolutions.
        num_decoder_blocks: The decoder's.
        scaling_factor: Scale of the latents, 1 / standard deviation.
        shift_factor: Shift of the latents, their mean.

    Shape:
        encode: (B, 3, H, W) in [-1, 1] -> (B, Z, H/8, W/8), unscaled; decode is its inverse.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        widths: tuple[int, int] = (64, 128),
        num_encoder_blocks: int = 2,
        num_decoder_blocks: int = 2,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ) -> None:
        super().__init__()
        fine, coarse = widths
        pixels = 3 * PIXEL_SHUFFLE**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(PIXEL_SHUFFLE),
            nn.Conv2d(pixels, fine, 3, padding=1),
            *_blocks(fine, num_encoder_blocks),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine, coarse, 1),
            *_blocks(coarse, num_encoder_blocks),
        )
        self.conv_out = nn.Conv2d(coarse, latent_channels, 3, padding=1)
        self.conv_in = nn.Conv2d(latent_channels, coarse, 3, padding=1)
        self.decoder = nn.Sequential(
            *_blocks(coarse, num_decoder_blocks),
            nn.Conv2d(coarse, 4 * fine, 1),
            nn.PixelShuffle(2),
            *_blocks(fine, num_decoder_blocks),
            nn.Conv2d(fine, pixels, 3, padding=1),
            nn.PixelShuffle(PIXEL_SHUFFLE),
        )

    def encode(self, x: Tensor) -> Tensor:
        """E(x), unscaled."""
        return self.conv_out(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """D(z) of an unscaled latent."""
        return self.decoder(self.conv_in(z))

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction D(E(x))."""
        return self.decode(self.encode(x))


Autoencoder: TypeAlias = AutoencoderKL | LocalAutoencoder


def _samples(features: Tensor) -> Tensor:
    """(B, C, h, w) -> float64 (B h w, C): one row per pixel."""
    return features.movedim(1, -1).flatten(0, -2).double()


def _set_pointwise_(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None = None) -> None:
    """Makes a convolution one matrix (out, in) per pixel: its centre tap, the others zero.

    Outputs that the matrix lacks give zero; the weights of inputs that it lacks stay as they are.
    """
    rows, columns = weight.shape
    nn.init.zeros_(conv.weight[:, :columns])
    middle = conv.kernel_size[0] // 2
    conv.weight[:rows, :columns, middle, middle] = weight.to(conv.weight)
    if conv.bias is not None:
        conv.bias.copy_(torch.zeros_like(conv.bias) if bias is None else bias)


@torch.no_grad()
def principal_start_(vae: LocalAutoencoder, images: Tensor) -> None:
    """Starts an autoencoder as the principal components of patches.

    Not in the paper: random weights need thousands of steps to learn what three eigenvalue
    problems give. Each convolution that changes the width keeps the strongest components of what
    reaches it, its mirror in the decoder is the transpose, and the residual blocks start as the
    identity; so the whole is an orthogonal projection, which training then improves, and an error
    of the latent is as large as the error of the image that it makes. Channels beyond the number of
    components start at zero in the encoder.

    Args:
        vae: With weights as constructed.
        images: (B, 3, H, W) in [-1, 1].
    """
    down = [layer for layer in vae.encoder if isinstance(layer, nn.Conv2d)]
    up = [layer for layer in vae.decoder if isinstance(layer, nn.Conv2d)]
    h = F.pixel_unshuffle(images, PIXEL_SHUFFLE)
    for forth, back in ((down[0], up[1]), (down[1], up[0]), (vae.conv_out, vae.conv_in)):
        if forth is down[1]:
            h = F.pixel_unshuffle(h, 2)
        rows = _samples(h)
        _, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))  # weakest first
        kept = vectors.flip(1)[:, : forth.out_channels].T
        _set_pointwise_(forth, kept)
        _set_pointwise_(back, kept.T)
        h = forth(h)


@torch.no_grad()
def least_squares_start_(
    student: LocalAutoencoder, base: LocalAutoencoder, teacher: Autoencoder, images: Tensor
) -> None:
    """Starts the student's convolutions at the latent by least squares on a batch of latents.

    Not in the paper: `conv_out` maps the student's features to the teacher's latent, `conv_in` the
    teacher's latent to the features that the base's decoder is used to.

    Args:
        student: As `widened` made it.
        base: The autoencoder it was made from.
        teacher: Whose latents it is to give.
        images: (B, 3, H, W) in [-1, 1].
    """
    latent, features = _samples(encode(teacher, images)), _samples(student.encoder(images))
    wanted = _samples(base.conv_in(base.encode(images)))
    for conv, given, target in (
        (student.conv_out, features, latent),
        (student.conv_in, latent, wanted),
    ):
        with_one = torch.cat([given, torch.ones_like(given[:, :1])], dim=1)
        solution = torch.linalg.lstsq(with_one, target).solution.T  # (out, in + 1)
        _set_pointwise_(conv, solution[:, :-1], solution[:, -1])


def encode(vae: Autoencoder, x: Tensor) -> Tensor:
    """Z = E(x), unscaled; the mode where the encoder gives a distribution (Eqs. 1, 3).

    Shape:
        (B, 3, H, W) in [-1, 1] -> (B, Z, H/8, W/8).
    """
    encoded = vae.encode(x)
    return encoded if isinstance(encoded, Tensor) else encoded.latent_dist.mode()


def decode(vae: Autoencoder, z: Tensor) -> Tensor:
    """D(z) of an unscaled latent, (B, Z, h, w) -> (B, 3, 8h, 8w), about [-1, 1]."""
    decoded = vae.decode(z)
    return decoded if isinstance(decoded, Tensor) else decoded.sample


def reconstruct(vae: Autoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """The latent and the image it decodes to: z_T = E_T(x), x_T = D_T(z_T) (Eq. 2)."""
    latent = encode(vae, x)
    return latent, decode(vae, latent)


def pixels_to_latents(vae: Autoencoder, x: Tensor) -> Tensor:
    """z_0 = E(x_HR), scaled to about unit variance, float32 (Eq. 17)."""
    z = encode(vae, x).float()
    return (z - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


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
    student: Autoencoder, teacher: Autoencoder, x: Tensor, rec_weight: float, rec_norm: str = "l1"
) -> dict[str, Tensor]:
    """L_vae = || E_S(x) - E_T(x) ||^2 + lambda L_rec(D_S(E_S(x)), x) (Eq. 4).

    The means are over elements and the latents are scaled by the teacher's factor, so that lambda
    means the same for every teacher.

    Returns:
        `loss`, and its terms `latent` and `rec`.
    """
    with torch.no_grad():
        target = encode(teacher, x).float()
    latent, restored = reconstruct(student, x)
    latent_term = F.mse_loss(latent.float(), target) * teacher.config.scaling_factor**2
    rec_term = reconstruction_loss(restored, x, rec_norm)
    return {"loss": latent_term + rec_weight * rec_term, "latent": latent_term, "rec": rec_term}


def widened(vae: Autoencoder, teacher: Autoencoder) -> Autoencoder:
    """The student: `vae` with the teacher's number of latent channels and its scaling (Eq. 3).

    Every weight that keeps its shape is copied bitwise; the convolutions at the latent start anew.
    """
    # without diffusers' private notes, which would set what is given here back to its default
    own = {key: value for key, value in vae.config.items() if not key.startswith("_")}
    config = {
        **own,
        "latent_channels": teacher.config.latent_channels,
        "scaling_factor": teacher.config.scaling_factor,
        "shift_factor": teacher.config.shift_factor,
    }
    student = type(vae).from_config(config)
    load_matching_(student, vae)
    return student
