"""Super-resolution in one step and in several, and the finished model (Eqs. 19, 22).

Legend: B batch, H W pixels of the result, Z latent channels, h = H / 8, w = W / 8.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.diffusion import (
    NoiseSchedule,
    Prediction,
    conditioned,
    ddim_sample,
    predict_clean,
    sample_noise,
)
from tocsr.errors import ExitCode, TocsrError
from tocsr.files import read_json, write_json
from tocsr.models.fidelity import check_fidelity
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.vae import (
    LATENT_STRIDE,
    Autoencoder,
    latents_to_pixels,
    pixels_to_latents,
    upsample,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tocsr.models.compact import CompactUNet

SCHEMA = 1


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


def multi_step(
    unet: CompactUNet,
    schedule: NoiseSchedule,
    start_noise: Tensor,
    lr_latent: Tensor,
    num_denoise_steps: int,
    clip: float = 0.0,
) -> Tensor:
    """z0_teacher, full sampling from z_T given z_LR, float32 (Eq. 23's target).

    Args:
        unet: The conditioned U-Net.
        schedule: abar_t.
        start_noise: z_T (B, Z, h, w), standard normal.
        lr_latent: z_LR (B, Z, h, w).
        num_denoise_steps: Calls of the U-Net.
        clip: As in `tocsr.diffusion.ddim_sample`.
    """
    prediction = unet.config.prediction
    denoise = conditioned(unet, lr_latent, prediction)
    return ddim_sample(denoise, schedule, start_noise, num_denoise_steps, clip, prediction)


@dataclass(frozen=True, kw_only=True)
class GeneratorFacts:
    """What a user of the model folder must know, as `upscaler.json` holds it.

    Args:
        upscale: Factor between low- and high-resolution side.
        degradation: What the low-resolution images of the training were made with.
        latent_channels: Z.
        latent_stride: f, pixels per latent pixel along a side.
        pixel_multiple: What the result's height and width are padded to multiples of.
        halo: Pixels of the result to compute around a tile, blended over the inner half: twice what
            `measured_reach` finds, and two `pixel_multiple` where the network is not local.
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
    """The finished model: encode, one U-Net call, decode (Eqs. 19, 22).

    The same image and noise give the same result. Where `facts.local`, a result pixel does not see
    beyond a bounded neighbourhood, and `facts.halo` pixels around a tile are enough for the result
    of the whole image to half an 8-bit level (`tocsr.models.reach`): noise that is a function of
    the place, as `tocsr.deploy.tiling.position_noise`, then gives the same picture by any tiles.
    Tiles begin at multiples of `facts.pixel_multiple`. Otherwise every pixel sees the whole image.

    Shape:
        image (B, 3, H, W) RGB in [-1, 1], overshoot at edges allowed: the low-resolution image
        upsampled bicubically by `facts.upscale`; H and W multiples of `facts.pixel_multiple`. noise
        (B, Z, h, w), standard normal, Z `facts.latent_channels`, h and w H and W over
        `facts.latent_stride`. Result (B, 3, H, W) RGB, clamped to [-1, 1]. All of the dtype and on
        the device of the weights, float32 as loaded.
    """

    def __init__(self, vae: Autoencoder, unet: CompactUNet, facts: GeneratorFacts) -> None:
        super().__init__()
        self.vae, self.unet, self.facts = vae, unet, facts
        self.schedule = NoiseSchedule()

    def forward(self, image: Tensor, noise: Tensor, fidelity: float = 0.0) -> Tensor:
        """The super-resolved image; the class says what goes in and what comes out.

        Args:
            image: The upsampled image.
            noise: z_T.
            fidelity: Not in the paper: 0 is as trained; up to 1 the start noise is scaled by
                `1 - fidelity`. From less noise comes less of the detail that only the noise
                decides: nearer the average of all results, so nearer the original pixel by pixel,
                and smoother.

        Raises:
            TocsrError: The dial is out of range, or turned on a model that predicts the noise.
        """
        lr_latent = pixels_to_latents(self.vae, image)
        if fidelity:
            check_fidelity(fidelity, self.facts.prediction)
            noise = noise * (1 - fidelity)
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


class MultiStepGenerator(nn.Module):
    """The multi-step super-resolver as a system: encode, N U-Net calls by DDIM, decode.

    What distill's teacher is, called as `OneStepGenerator` is.

    Args:
        vae: E and D.
        unet: The conditioned U-Net.
        num_denoise_steps: N.
        clip: As in `tocsr.diffusion.ddim_sample`.

    Shape:
        As in `OneStepGenerator`; H and W multiples of 8 times the U-Net's `size_multiple`.
    """

    def __init__(
        self, vae: Autoencoder, unet: CompactUNet, num_denoise_steps: int, clip: float = 0.0
    ) -> None:
        super().__init__()
        self.vae, self.unet = vae, unet
        self.num_denoise_steps, self.clip = num_denoise_steps, clip
        self.schedule = NoiseSchedule()

    @torch.no_grad()
    def forward(self, image: Tensor, noise: Tensor) -> Tensor:
        lr_latent = pixels_to_latents(self.vae, image)
        steps, clip = self.num_denoise_steps, self.clip
        clean = multi_step(self.unet, self.schedule, noise, lr_latent, steps, clip)
        return latents_to_pixels(self.vae, clean).clamp(-1, 1)


@torch.no_grad()
def super_resolve(
    generator: OneStepGenerator | MultiStepGenerator,
    lr: Tensor,
    upscale: int,
    seed: int,
    indices: list[int],
) -> Tensor:
    """Low-resolution images of any size, whole, and start noise from a seed.

    The right and the lower border are reflected up to what the network's strides ask for, so a side
    must be longer than what it lacks of that, and what comes of the border is cut off.

    Args:
        generator: Of one step or of several.
        lr: (B, 3, H, W) in [-1, 1].
        upscale: n, which divides the multiple of pixels that the network asks for.
        seed: Of the start noise.
        indices: Index of each image; its noise is a function of the seed and the index.

    Returns:
        (B, 3, n H, n W) in [-1, 1].
    """
    height, width = lr.shape[2:]
    multiple = LATENT_STRIDE * generator.unet.size_multiple // upscale
    padded = F.pad(lr, (0, -width % multiple, 0, -height % multiple), mode="reflect")
    image = upsample(padded, upscale)
    latent = (side // LATENT_STRIDE for side in image.shape[2:])
    noise = sample_noise((generator.unet.latent_channels, *latent), seed, indices, "start")
    result = generator(image, noise.to(image))
    return result[:, :, : upscale * height, : upscale * width]
