"""Super-resolution: the conditioned U-Net, and the one-step generator (Eqs. 20, 22).

Legend: B batch, H W pixels of the result, Z latent channels, h = H / 8, w = W / 8.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tocsr.diffusion import NoiseSchedule, Prediction, conditioned, predict_clean
from tocsr.errors import ExitCode, TocsrError
from tocsr.files import read_json, write_json
from tocsr.models.compact import CompactUNet, rebuilt
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.layers import zero_last_
from tocsr.models.vae import (
    LATENT_STRIDE,
    Autoencoder,
    latents_to_pixels,
    pixels_to_latents,
)

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = 1


@torch.no_grad()
def with_condition(unet: CompactUNet) -> CompactUNet:
    """The U-Net that takes z_LR beside z_t; its new input weights are zero (Eq. 20).

    So at its first step it predicts what the backbone predicts, whatever z_LR is.
    """
    conditioned_unet = rebuilt(unet, condition_channels=unet.latent_channels)
    first = _first_conv(conditioned_unet.conv_in)
    first.weight.zero_()
    first.weight[:, : unet.latent_channels] = _first_conv(unet.conv_in).weight
    if first.bias is not None:
        first.bias.copy_(_first_conv(unet.conv_in).get_parameter("bias"))
    return conditioned_unet


def with_prediction(unet: CompactUNet, prediction: Prediction) -> CompactUNet:
    """The U-Net made to predict something else, its last convolution then starting at zero.

    So a conditioned U-Net that is to predict the clean latent starts as z_LR.
    """
    if unet.config.prediction == prediction:
        return unet
    changed = rebuilt(unet, prediction=prediction)
    zero_last_(changed.conv_out)
    return changed


def _first_conv(module: nn.Module) -> nn.Conv2d:
    return next(part for part in module.modules() if isinstance(part, nn.Conv2d))


def one_step(
    unet: CompactUNet, schedule: NoiseSchedule, start_noise: Tensor, lr_latent: Tensor
) -> Tensor:
    """z0_hat = G_phi(z_T, z_LR), one step from the last timestep, float32 (Eq. 22).

    A U-Net that predicts the noise, as in the paper, divides by sqrt(abar_T), which multiplies its
    error by about 14.6; one that predicts the clean latent adds to z_LR and divides nothing.

    Args:
        unet: The student's U-Net.
        schedule: abar_t.
        start_noise: z_T (B, Z, h, w), standard normal.
        lr_latent: z_LR (B, Z, h, w).
    """
    prediction = unet.config.prediction
    timestep = torch.full((len(start_noise),), schedule.last_timestep, device=start_noise.device)
    predicted = conditioned(unet, lr_latent, prediction)(start_noise, timestep)
    return predict_clean(schedule, start_noise, predicted, timestep, prediction)


@dataclass(frozen=True, kw_only=True)
class GeneratorFacts:
    """What a user of the model folder must know, as `upscaler.json` holds it.

    Args:
        upscale: Factor between low- and high-resolution side.
        degradation: What the low-resolution images of the training were made with.
        latent_channels: Z.
        latent_stride: f, pixels per latent pixel along a side.
        pixel_multiple: What the result's height and width are padded to multiples of.
        halo: Pixels of the result around a tile that the network should see.
        local: Whether the receptive field is bounded.
        prediction: What the U-Net predicts: noise, velocity or clean.
        timestep: The one timestep.
        schema: Version of this table.
    """

    upscale: int
    degradation: str
    latent_channels: int
    latent_stride: int = LATENT_STRIDE
    pixel_multiple: int
    halo: int
    local: bool
    prediction: Prediction
    timestep: int
    schema: int = SCHEMA


class OneStepGenerator(nn.Module):
    """The finished model: encode, one U-Net call, decode.

    Shape:
        image (B, 3, H, W) in [-1, 1], the low-resolution image upsampled to the result's size, H
        and W multiples of `facts.pixel_multiple`; noise (B, Z, h, w), standard normal; result
        (B, 3, H, W), clamped to [-1, 1]. All float32.
    """

    def __init__(self, vae: Autoencoder, unet: CompactUNet, facts: GeneratorFacts) -> None:
        super().__init__()
        self.vae, self.unet, self.facts = vae, unet, facts
        self.schedule = NoiseSchedule()

    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        lr_latent = pixels_to_latents(self.vae, image)
        clean = one_step(self.unet, self.schedule, noise, lr_latent)
        return latents_to_pixels(self.vae, clean).clamp(-1, 1)

    def save_pretrained(self, folder: Path) -> None:
        """Writes `vae/`, `unet/` and, last, `upscaler.json`."""
        self.vae.save_pretrained(folder / "vae")
        self.unet.save_pretrained(folder / "unet")
        for part in ("vae", "unet"):  # diffusers notes the path a model came from: not for sharing
            config = read_json(folder / part / "config.json")
            config.pop("_name_or_path", None)
            write_json(folder / part / "config.json", config)
        write_json(folder / "upscaler.json", asdict(self.facts))

    @classmethod
    def from_pretrained(cls, folder: Path) -> OneStepGenerator:
        """Loads a folder that `save_pretrained` wrote.

        Raises:
            TocsrError: A file is missing, or its schema is not known.
        """
        path = folder / "upscaler.json"
        facts: dict[str, Any] = read_json(path)
        if facts.get("schema") != SCHEMA:
            raise TocsrError(
                f"{path} must have schema {SCHEMA}, got {facts.get('schema')}",
                "update tocsr",
                ExitCode.MODEL,
            )
        if odd := facts.keys() ^ {field.name for field in fields(GeneratorFacts)}:
            raise TocsrError(
                f"{path} lacks or does not know: {', '.join(sorted(odd))}", code=ExitCode.MODEL
            )
        return cls(load_vae(folder / "vae"), load_unet(folder / "unet"), GeneratorFacts(**facts))
