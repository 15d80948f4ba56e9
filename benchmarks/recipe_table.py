"""The tables of docs/results/tiny.md: cost of every phase, compact against teacher, Kodak24.

    python benchmarks/recipe_table.py --runs runs/tiny --kodak FOLDER

Kodak photos are reduced by Pillow's bicubic to a quarter and rounded to 8 bits; results are saved
8-bit images; PSNR-Y and SSIM-Y by BT.601 'ycbcr', border 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tocsr.config import Source
from tocsr.data.images import to_tensor, to_uint8
from tocsr.data.sources import list_photos, read_photo
from tocsr.deploy.metrics.psnr import psnr_y
from tocsr.deploy.metrics.ssim import ssim_y
from tocsr.diffusion import NoiseSchedule, conditioned, ddim_sample, sample_noise
from tocsr.models.cost import pipeline_costs
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.sr import OneStepGenerator
from tocsr.models.vae import latents_to_pixels, pixels_to_latents, upsample
from tocsr.runs import read_result
from tocsr.verbs import PHASES


def phase_rows(runs: Path) -> list[str]:
    """Seconds from a phase's first file to its last, so of a run that was not interrupted."""
    rows = ["| phase | seconds | last loss |", "|---|---|---|"]
    for verb in PHASES:
        result = read_result(runs / verb) or {}
        started = (runs / verb / "config.yaml").stat().st_mtime
        seconds = (runs / verb / "result.json").stat().st_mtime - started
        parts = result if verb == "pretrain" else {"": result}
        losses = [f"{name} {p['loss']:.4f}".strip() for name, p in parts.items() if "loss" in p]
        rows.append(f"| {verb} | {seconds:.0f} | {', '.join(losses) or '-'} |")
    return rows


def compact_rows(runs: Path) -> list[str]:
    selected = read_result(runs / "select") or {}
    model = OneStepGenerator.from_pretrained(runs / "distill" / "model")
    rows = [
        "| U-Net | parameters | GMACs at 512 x 512 | gap to the teacher (relative) |",
        "|---|---|---|---|",
        f"| 16-channel teacher | {selected['teacher_params']:,} | "
        f"{selected['teacher_macs_g']:.2f} | 0 |",
        f"| compact, as assembled | {selected['params']:,} | {selected['macs_g']:.2f} | "
        f"{selected['gap']:.4f} ({selected['relative_gap']:.4f}) |",
        "",
        "| finished model | parameters | GMACs at 512 x 512 |",
        "|---|---|---|",
    ]
    costs = pipeline_costs(model.vae, model.unet, 512)
    return rows + [f"| {c.part} | {c.params:,} | {c.macs_g:.2f} |" for c in costs]


class Systems:
    """What is compared: (LR photo uint8) -> photo of four times the size, uint8."""

    def __init__(self, runs: Path, num_denoise_steps: int) -> None:
        self.vae = load_vae(runs / "expand-unet" / "vae")
        self.sr_teacher = load_unet(runs / "train-sr" / "unet")
        self.model = OneStepGenerator.from_pretrained(runs / "distill" / "model").eval()
        self.num_denoise_steps = num_denoise_steps

    def _padded(self, lr: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
        factor, multiple = self.model.facts.upscale, self.model.facts.pixel_multiple
        image = upsample(to_tensor(lr)[None], factor)
        height, width = image.shape[2:]
        pad = (0, -width % multiple, 0, -height % multiple)
        return torch.nn.functional.pad(image, pad, mode="reflect"), (height, width)

    def bicubic(self, lr: np.ndarray) -> np.ndarray:
        factor = self.model.facts.upscale
        size = (lr.shape[1] * factor, lr.shape[0] * factor)
        return np.asarray(Image.fromarray(lr).resize(size, Image.Resampling.BICUBIC))

    @torch.no_grad()
    def multi_step(self, lr: np.ndarray) -> np.ndarray:
        image, (height, width) = self._padded(lr)
        latent = pixels_to_latents(self.vae, image)
        noise = sample_noise(tuple(latent.shape[1:]), 0, [0], "start")
        prediction = self.sr_teacher.config.prediction
        denoise = conditioned(self.sr_teacher, latent, prediction)
        clean = ddim_sample(
            denoise,
            NoiseSchedule(),
            noise,
            self.num_denoise_steps,
            prediction=prediction,
        )
        return to_uint8(latents_to_pixels(self.vae, clean)[0, :, :height, :width])

    @torch.no_grad()
    def one_step(self, lr: np.ndarray) -> np.ndarray:
        image, (height, width) = self._padded(lr)
        side = (image.shape[2] // 8, image.shape[3] // 8)
        noise = sample_noise((self.model.facts.latent_channels, *side), 0, [0], "start")
        return to_uint8(self.model(image, noise)[0, :, :height, :width])

    @torch.no_grad()
    def autoencoder(self, hr: np.ndarray) -> np.ndarray:
        image = to_tensor(hr)[None]
        return to_uint8(latents_to_pixels(self.vae, pixels_to_latents(self.vae, image))[0])


def kodak_rows(runs: Path, kodak: Path, num_denoise_steps: int, limit: int) -> list[str]:
    systems = Systems(runs, num_denoise_steps)
    names = {
        "bicubic": systems.bicubic,
        f"multi-step ({num_denoise_steps} steps)": systems.multi_step,
        "one-step": systems.one_step,
    }
    scores: dict[str, list[tuple[float, float]]] = {}
    for path in list_photos(Source(path=str(kodak), limit=limit)):
        hr = read_photo(path)
        factor = systems.model.facts.upscale
        size = (hr.shape[1] // factor, hr.shape[0] // factor)
        lr = np.asarray(Image.fromarray(hr).resize(size, Image.Resampling.BICUBIC))
        results = {name: system(lr) for name, system in names.items()}
        results["autoencoder alone, from the original"] = systems.autoencoder(hr)
        for name, result in results.items():
            scores.setdefault(name, []).append((psnr_y(result, hr), ssim_y(result, hr)))
    rows = ["| Kodak24, bicubic x4 | PSNR-Y | SSIM-Y |", "|---|---|---|"]
    for name, pairs in scores.items():
        psnr, ssim = np.mean(pairs, axis=0)
        rows.append(f"| {name} | {psnr:.2f} | {ssim:.4f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--kodak", type=Path, help="Folder of the 24 Kodak photos.")
    parser.add_argument("--num_denoise_steps", type=int, default=8)
    parser.add_argument("--limit", type=int, default=0, help="Only so many photos; 0 for all.")
    options = parser.parse_args()
    tables = [phase_rows(options.runs), compact_rows(options.runs)]
    if options.kodak:
        tables.append(
            kodak_rows(options.runs, options.kodak, options.num_denoise_steps, options.limit)
        )
    print("\n\n".join("\n".join(rows) for rows in tables))


if __name__ == "__main__":
    main()
