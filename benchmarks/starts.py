"""Losses before the first step and after a few, for each start of the widened convolutions.

    python benchmarks/starts.py --runs runs/tiny

The base networks are those of `runs/tiny/pretrain`; the U-Net is widened for the latents of
`runs/tiny/expand-vae/vae`, which stay as they are. Every start is trained equally, once a seed; a
seed draws the constructed weights, the images of the start, the crops and the noises. Losses are
Eq. 4's two terms and Eq. 5's, on 64 other crops of the same photos, the same for all; mean and
standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import get_args

import torch
from torch import Tensor, nn

from tocsr.config import DataConfig, OptimConfig, Source
from tocsr.data.images import Batch
from tocsr.diffusion import NoiseSchedule, denoising_loss, draws
from tocsr.models.compact import rebuilt
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.starts import Start, start_autoencoder_
from tocsr.models.unet import ADAPTERS
from tocsr.models.unet_starts import start_unet_
from tocsr.models.vae import pixels_to_latents, reconstruct_with_loss, widened
from tocsr.runs import Run
from tocsr.seeding import derive_seed
from tocsr.train.loop import fit
from tocsr.train.pretrain import sample_images

SCHEDULE = NoiseSchedule()
Losses = dict[str, Tensor]


@dataclass
class Bench:
    """The networks of a run, and how each start is trained and measured."""

    runs: Path
    data: DataConfig
    steps: list[int]
    batch_size: int
    lr: float

    def __post_init__(self) -> None:
        def load(kind: Callable, *where: str) -> nn.Module:
            return kind(self.runs.joinpath(*where)).requires_grad_(False)

        self.base_vae = load(load_vae, "pretrain", "vae")
        self.teacher = load(load_vae, "pretrain", "vae_teacher")
        self.base_unet = load(load_unet, "pretrain", "unet")
        self.vae = load(load_vae, "expand-vae", "vae")
        self.heldout = sample_images(self.data, derive_seed(0, "heldout"))

    def vae_losses(self, student: nn.Module, images: Tensor) -> Losses:
        target = pixels_to_latents(self.teacher, images)
        return reconstruct_with_loss(student, None, target, images, 1.0)[1]

    def unet_losses(self, unet: nn.Module, images: Tensor, seed: int, indices: list[int]) -> Losses:
        clean = pixels_to_latents(self.vae, images)
        noise, timestep = draws(SCHEDULE, clean, seed, indices)
        prediction = unet.config.prediction
        loss = denoising_loss(unet, SCHEDULE, clean, noise, timestep, prediction)
        return {"loss": loss, "diffusion": loss}

    def trained(
        self,
        network: nn.Module,
        loss: Callable[[Batch], Losses],
        measure: Callable[[], Losses],
        seed: int,
    ) -> list[dict[str, float]]:
        """The held-out losses before the first step and after each number of steps."""
        found: list[dict[str, float]] = []

        def look(_: str, done: int, *__: object) -> None:
            if done in (0, *self.steps):
                with torch.no_grad():
                    found.append({name: float(term) for name, term in measure().items()})

        optim = OptimConfig(
            lr=self.lr,
            num_steps=max(self.steps),
            batch_size=self.batch_size,
            warmup_steps=20,
            schedule="constant",
            ema_decay=0,
            checkpoint_every=max(self.steps),
        )
        look("", 0)
        with TemporaryDirectory() as folder:
            fit(
                Run(Path(folder)),
                "",
                {"network": network},
                loss,
                data=self.data,
                optim=optim,
                seed=seed,
                device=torch.device("cpu"),
                report=look,
            )
        return found

    def autoencoder(self, how: Start, seed: int) -> list[dict[str, float]]:
        torch.manual_seed(derive_seed(seed, "vae"))
        student = widened(self.base_vae, self.teacher).requires_grad_(True)
        images = sample_images(self.data, seed)
        start_autoencoder_(how, student, self.base_vae, self.teacher, images)
        return self.trained(
            student,
            lambda batch: self.vae_losses(student, batch.images),
            lambda: self.vae_losses(student, self.heldout),
            seed,
        )

    def unet(self, adapter: str, how: Start, seed: int) -> list[dict[str, float]]:
        torch.manual_seed(derive_seed(seed, "unet"))
        channels = self.vae.config.latent_channels
        unet = rebuilt(self.base_unet, latent_channels=channels, adapter=adapter)
        images = sample_images(self.data, seed)
        start_unet_(how, unet, self.base_unet, self.vae, self.base_vae, images, seed)
        return self.trained(
            unet,
            lambda batch: self.unet_losses(unet, batch.images, seed, batch.indices),
            lambda: self.unet_losses(unet, self.heldout, derive_seed(0, "noise"), list(range(64))),
            seed,
        )


def row(network: str, how: str, term: str, runs: list[list[dict[str, float]]]) -> str:
    """One line of the table; `runs` has a list of losses by step for each seed."""
    cells = []
    for losses in zip(*runs, strict=True):
        values = [loss[term] for loss in losses]
        spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
        cells.append(f"{mean(values):.4f}{spread}")
    return f"| {network} | {how} | {term} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--photos", default="builtin", help="Folder of photos.")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", default=["autoencoder", *ADAPTERS])
    parser.add_argument("--starts", nargs="+", default=get_args(Start))
    options = parser.parse_args()
    data = DataConfig(sources=[Source(path=options.photos)], crop=options.crop)
    bench = Bench(options.runs, data, options.steps, options.batch_size, options.lr)
    after = " | ".join(f"after {steps}" for steps in options.steps)
    print(f"| network | start | loss | before | {after} |")
    print("|---|---|---|---|" + "---|" * len(options.steps))
    for network in options.networks:
        for how in options.starts:
            if network == "autoencoder":
                runs = [bench.autoencoder(how, seed) for seed in range(options.seeds)]
            else:
                runs = [bench.unet(network, how, seed) for seed in range(options.seeds)]
            for term in (name for name in runs[0][0] if name != "loss"):
                print(row(network, how, term, runs), flush=True)


if __name__ == "__main__":
    main()
