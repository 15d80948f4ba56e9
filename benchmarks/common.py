"""What the benchmarks share: photos, measures of an image, the diffusion loss in bands, tables."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tocsr.config import DataConfig, Source
from tocsr.data.images import PhotoCrops, batches, to_tensor, to_uint8
from tocsr.data.sources import list_photos, read_photo
from tocsr.deploy.metrics.color import rgb_to_y
from tocsr.deploy.metrics.psnr import psnr_y
from tocsr.deploy.metrics.ssim import ssim_y
from tocsr.diffusion import NoiseSchedule, denoising_loss, draws
from tocsr.models.vae import LATENT_STRIDE, decode, encode, pixels_to_latents
from tocsr.options import read_config
from tocsr.seeding import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from tocsr.models.compact import CompactUNet
    from tocsr.models.perceptual import ShiftTolerantLPIPS
    from tocsr.models.vae import Autoencoder

NUM_BANDS = 4  # of timesteps, from little noise to much
BATCH = 32
DIGITS = {"PSNR": 2, "PSNR-Y": 2, "SSIM-Y": 4, "ST-LPIPS": 4}
CROP, ZOOM, GAP = 96, 3, 24  # of a contact sheet, in pixels
NUM_PICTURED = 4
_MEASURING = derive_seed(0, "benchmarks")  # of crops, noise and timesteps that are measured on


def base_parser(about: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark which trains has."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num_steps", type=int, help="In place of the preset's optimiser steps.")
    parser.add_argument("--num_threads", type=int, default=0, help="CPU threads; 0 takes all.")
    return parser


def named_folder(text: str) -> tuple[str, Path]:
    """`NAME=FOLDER` of the command line."""
    name, _, folder = text.partition("=")
    if not (name and folder):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, got '{text}'")
    return name, Path(folder)


def phase_config(verb: str, options: argparse.Namespace, steps: str, **values: object) -> Any:
    """A phase's configuration by the preset.

    Args:
        verb: The phase.
        options: Holds preset, photos, num_steps and num_threads.
        steps: The option that `num_steps` stands for.
        values: Further options.
    """
    values |= {"preset": options.preset, "num_threads": options.num_threads}
    if options.photos:
        values["data.sources"] = json.dumps([{"path": str(options.photos)}])
    if options.num_steps:
        values[steps] = options.num_steps
    return read_config(verb, [f"--{name}={value}" for name, value in values.items()])[0]


def link_phases(folder: Path, to: Path, verbs: Iterable[str]) -> None:
    """Makes phases of one `--runs` folder those of another too."""
    folder.mkdir(parents=True, exist_ok=True)
    for verb in verbs:
        if not (folder / verb).is_symlink():
            (folder / verb).symlink_to((to / verb).resolve(), target_is_directory=True)


def report(label: str, done: int, total: int, figures: Mapping[str, float]) -> None:
    """A line on the standard error at each tenth of a training."""
    if 10 * done // total > 10 * (done - 1) // total:
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"{label} {done}/{total}  {text}", file=sys.stderr, flush=True)


def photos(folder: Path) -> Iterator[NDArray[np.uint8]]:
    """The photos of a folder by name, uint8 (H, W, 3)."""
    return map(read_photo, list_photos(Source(path=str(folder))))


@torch.no_grad()
def restored(vae: Autoencoder, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """D(E(x)) of a photo of any size as it would be saved.

    The right and the lower border are reflected up to a multiple of the latent's stride, and what
    comes of that is cut off.
    """
    height, width = photo.shape[:2]
    pad = (0, -width % LATENT_STRIDE, 0, -height % LATENT_STRIDE)
    image = F.pad(to_tensor(photo)[None].to(vae.device), pad, mode="reflect")
    return to_uint8(decode(vae, encode(vae, image))[0, :, :height, :width])


def psnr(mse: float, peak: float) -> float:
    """10 log10(peak^2 / mse), in dB."""
    return 10 * math.log10(peak**2 / mse) if mse else math.inf


@torch.no_grad()
def measures(
    image: NDArray[np.uint8], original: NDArray[np.uint8], stlpips: ShiftTolerantLPIPS | None
) -> dict[str, float]:
    """How near a saved image is to the original; ST-LPIPS where there is the metric."""
    error = image.astype(np.float64) - original
    found = {
        "PSNR": psnr(float(np.mean(error**2)), 255),
        "PSNR-Y": psnr_y(image, original),
        "SSIM-Y": ssim_y(image, original),
    }
    if stlpips:
        pair = [to_tensor(one)[None].to(stlpips.shift.device) for one in (image, original)]
        found["ST-LPIPS"] = stlpips(*pair).item()
    return found


def means(vae: Autoencoder, folder: Path, stlpips: ShiftTolerantLPIPS | None) -> dict[str, float]:
    """Each measure's mean over the photos of a folder."""
    rows = [measures(restored(vae, photo), photo, stlpips) for photo in photos(folder)]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def busiest(photo: NDArray[np.uint8]) -> tuple[slice, slice]:
    """The window with the strongest gradients of luma, of those on a grid."""
    y = rgb_to_y(photo)
    slope = np.abs(np.diff(y, axis=0))[:, :-1] + np.abs(np.diff(y, axis=1))[:-1]
    places = [
        (slice(top, top + CROP), slice(left, left + CROP))
        for top in range(0, photo.shape[0] - CROP + 1, CROP // 4)
        for left in range(0, photo.shape[1] - CROP + 1, CROP // 4)
    ]
    return max(places, key=lambda place: slope[place].sum())


def contact_sheet(vaes: Mapping[str, Autoencoder], folders: Sequence[Path]) -> Image.Image:
    """The original and what each autoencoder restores of it side by side, a row for each photo.

    The photos are spread evenly over the folders, and the window is chosen by the original alone.
    """
    every = [photo for folder in folders for photo in photos(folder)]
    chosen = [every[i * len(every) // NUM_PICTURED] for i in range(min(NUM_PICTURED, len(every)))]
    side = CROP * ZOOM
    sheet = Image.new("RGB", ((1 + len(vaes)) * side, len(chosen) * (side + GAP)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, photo in enumerate(chosen):
        window = busiest(photo)
        columns = {"original": photo[window]}
        for name, vae in vaes.items():
            crop = restored(vae, photo)[window]
            columns[f"{name}, {psnr_y(crop, photo[window]):.2f} dB"] = crop
        for column, (label, crop) in enumerate(columns.items()):
            left, top = column * side, row * (side + GAP)
            pen.text((left + 4, top + 4), label, fill="black", font=font)
            large = Image.fromarray(crop).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(large, (left, top + GAP))
    return sheet


def heldout_crops(folder: Path, crop: int, num_crops: int) -> Tensor:
    """Crops (num_crops, 3, crop, crop) in [-1, 1], the same at every call."""
    data = DataConfig(sources=[Source(path=str(folder))], crop=crop)
    return next(batches(PhotoCrops(data, _MEASURING, num_crops), num_crops, [0])).images


@torch.no_grad()
def crops_to_latents(vae: Autoencoder, crops: Tensor) -> Tensor:
    """Scaled latents (B, Z, crop / 8, crop / 8) on the autoencoder's device."""
    return torch.cat([pixels_to_latents(vae, part.to(vae.device)) for part in crops.split(BATCH)])


@torch.no_grad()
def band_losses(unet: CompactUNet, latents: Tensor, num_draws: int) -> list[float]:
    """L_diff (Eq. 5) in each band of timesteps, so that their mean is the loss over all.

    Noise and timesteps are functions of a latent's place and the draw, the same for every U-Net.

    Args:
        unet: Predicts the noise.
        latents: (B, Z, h, w).
        num_draws: Draws of noise and timestep for each latent in each band.
    """
    schedule = NoiseSchedule()
    width = schedule.num_timesteps // NUM_BANDS
    sums = np.zeros(NUM_BANDS)
    for draw in range(num_draws):
        places = torch.arange(len(latents)) + draw * len(latents)
        for clean, part in zip(latents.split(BATCH), places.split(BATCH), strict=True):
            noise, timestep = draws(schedule, clean, _MEASURING, part.tolist())
            for band in range(NUM_BANDS):
                inside = timestep % width + band * width
                loss = denoising_loss(unet, schedule, clean, noise, inside, unet.config.prediction)
                sums[band] += loss.item() * len(clean)
    return (sums / (num_draws * len(latents))).tolist()


def linear_losses(latents: Tensor) -> list[float]:
    """The least loss in each band that a linear predictor of one value alone reaches.

    It predicts the noise of a latent's value from that noisy value, by Wiener. Where the channel's
    variance is v, its loss at timestep t is abar v / (abar v + 1 - abar).

    Args:
        latents: (B, Z, h, w).
    """
    power = latents.var(dim=(0, 2, 3)).cpu() * NoiseSchedule().alphas_cumprod[:, None]  # (T, Z)
    noise = 1 - NoiseSchedule().alphas_cumprod[:, None]
    return (power / (power + noise)).mean(dim=1).view(NUM_BANDS, -1).mean(dim=1).tolist()


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """`mean (max - min)`."""
    mean, spread = float(np.mean(values)), max(values) - min(values)
    return f"{mean:.{digits}f} ({spread:.{digits}f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
