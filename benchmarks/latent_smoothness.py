"""How easy the latents of autoencoders are to denoise, and how they bear an error.

    python benchmarks/latent_smoothness.py NAME=FOLDER ... --photos FOLDER --test FOLDER \
        --runs runs/smoothness

All is measured on the same crops of the photos in `--test`:
- each channel's mean, standard deviation, and correlation of horizontal neighbours;
- PSNR of the reconstruction, and of the decoded image against the one from a latent with noise of
  so many of the channel's standard deviations: how far the image moves;
- the diffusion loss (Eq. 5) in bands of timesteps, of the preset's U-Net trained on the latents of
  `--photos` with each seed. Zero noise predicted has loss 1; a linear predictor that looks at one
  value of the latent alone is given beside it.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from common import (
    BATCH,
    NUM_BANDS,
    band_losses,
    base_parser,
    crops_to_latents,
    heldout_crops,
    linear_losses,
    mean_and_spread,
    named_folder,
    phase_config,
    psnr,
    report,
    table,
)

from tocsr.devices import pick_device
from tocsr.diffusion import NoiseSchedule, sample_noise
from tocsr.models.folders import WEIGHTS, base_unet, load_unet, load_vae
from tocsr.models.vae import latents_to_pixels
from tocsr.runs import Run
from tocsr.seeding import derive_seed
from tocsr.train.loop import fit
from tocsr.train.pretrain import latent_denoising_loss

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from torch import Tensor

    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder

LEVELS = (0.05, 0.1, 0.2)  # noise on a latent, in standard deviations of its channel


def neighbour_correlation(latents: Tensor) -> Tensor:
    """Correlation of horizontally adjacent values in each channel, (B, Z, h, w) -> (Z,)."""
    left, right = latents[..., :-1], latents[..., 1:]
    left, right = (side - side.mean(dim=(0, 2, 3), keepdim=True) for side in (left, right))
    power = left.square().sum(dim=(0, 2, 3)) * right.square().sum(dim=(0, 2, 3))
    return (left * right).sum(dim=(0, 2, 3)) / power.sqrt()


@torch.no_grad()
def decoded(vae: Autoencoder, latents: Tensor) -> Tensor:
    parts = [latents_to_pixels(vae, part).clamp(-1, 1) for part in latents.split(BATCH)]
    return torch.cat(parts).cpu()


def channel_table(name: str, latents: Tensor) -> str:
    columns = (
        latents.mean(dim=(0, 2, 3)),
        latents.std(dim=(0, 2, 3)),
        neighbour_correlation(latents),
    )
    rows = [
        [str(channel), *(f"{value:.3f}" for value in row)]
        for channel, row in enumerate(zip(*(column.tolist() for column in columns), strict=True))
    ]
    return table([f"channel of {name}", "mean", "std", "neighbours' correlation"], rows)


def error_row(name: str, vae: Autoencoder, latents: Tensor, crops: Tensor) -> list[str]:
    """PSNR of the reconstruction, then how far noise on the latent moves it."""
    clean = decoded(vae, latents)
    indices = list(range(len(latents)))
    noise = sample_noise(tuple(latents.shape[1:]), 0, indices, "error").to(latents)
    noise = noise * latents.std(dim=(0, 2, 3), keepdim=True)
    errors = [clean - crops, *(clean - decoded(vae, latents + s * noise) for s in LEVELS)]
    correlation = float(neighbour_correlation(latents).mean())
    cells = [f"{psnr(float(error.square().mean()), peak=2):.2f}" for error in errors]
    return [name, str(latents.shape[1]), f"{correlation:.3f}", *cells]


def denoiser(
    options: argparse.Namespace, name: str, folder: Path, vae: Autoencoder, seed: int
) -> CompactUNet:
    """The U-Net of one run, from its folder or trained now as `pretrain` trains it.

    The run folder's name holds a sum of the autoencoder's weights: another one is another run.
    """
    digest = f"{zlib.crc32((folder / WEIGHTS).read_bytes()):08x}"
    runs = options.runs / f"{name}-{digest}-{seed}"
    config = phase_config("pretrain", options, "unet.num_steps", runs=runs, seed=seed)
    with Run.open(config) as run:
        if not run.result():
            torch.manual_seed(derive_seed(seed, "unet"))
            channels = vae.config.latent_channels
            unet = base_unet(config.preset, latent_channels=channels).to(vae.device)
            schedule = NoiseSchedule()
            figures = fit(
                run,
                f"{name}, seed {seed}",
                {"unet": unet},
                lambda batch: {"loss": latent_denoising_loss(unet, vae, schedule, batch, seed)},
                data=config.data,
                optim=config.unet,
                seed=seed,
                device=vae.device,
                report=report,
            )
            unet.save_pretrained(run.folder)
            run.finish(figures)
    return load_unet(config.folder).to(vae.device)


def loss_rows(
    name: str, latents: Tensor, unets: list[CompactUNet], num_draws: int
) -> list[list[str]]:
    """The U-Net's loss in each band and over all, and the linear predictor's."""

    def cells(runs: list[list[float]]) -> list[str]:
        columns = [*zip(*runs, strict=True), [float(np.mean(bands)) for bands in runs]]
        return [mean_and_spread(column, 4) for column in columns]

    trained = [band_losses(unet, latents, num_draws) for unet in unets]
    return [
        [name, "U-Net", *cells(trained)],
        [name, "linear", *cells([linear_losses(latents)])],
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = base_parser(__doc__)
    parser.add_argument("autoencoders", type=named_folder, nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--photos", type=Path, help="To train on; the preset's otherwise.")
    parser.add_argument("--test", type=Path, required=True, help="Folder of photos to measure on.")
    parser.add_argument("--runs", type=Path, default=Path("runs/latent_smoothness"))
    parser.add_argument("--num_crops", type=int, default=256)
    parser.add_argument("--num_draws", type=int, default=4, help="A crop and quarter of timesteps.")
    options = parser.parse_args(argv)
    config = phase_config("pretrain", options, "unet.num_steps")
    device = pick_device(config.device, config.num_threads)
    crops = heldout_crops(options.test, config.data.crop, options.num_crops)
    channels, errors, losses = [], [], []
    for name, folder in options.autoencoders:
        vae = load_vae(folder).to(device).requires_grad_(False)
        latents = crops_to_latents(vae, crops)
        channels.append(channel_table(name, latents))
        errors.append(error_row(name, vae, latents, crops))
        unets = [denoiser(options, name, folder, vae, seed) for seed in options.seeds]
        losses += loss_rows(name, latents, unets, options.num_draws)
    moved = [f"moved by {level} std" for level in LEVELS]
    head = ["autoencoder", "channels", "neighbours' correlation", "PSNR of D(E(x))", *moved]
    width = NoiseSchedule().num_timesteps // NUM_BANDS
    bands = [f"t {band * width} to {(band + 1) * width - 1}" for band in range(NUM_BANDS)]
    loss_head = ["latents of", "predictor, loss as mean over seeds (max - min)", *bands, "all"]
    print("\n\n".join([*channels, table(head, errors), table(loss_head, losses)]))


if __name__ == "__main__":
    main()
