"""How the U-Net's ends are best widened to 16 channels: the paper's table S4.

    python benchmarks/adapters.py --preset tiny --runs runs/tiny --out runs/adapters --test FOLDER

`--runs` holds the finished pretrain and expand-vae, which all variants start from. Each variant and
seed runs the phase expand-unet for the same steps, in a folder of its own under `--out`; a stopped
command goes on where it was, and after another pretrain `--out` must be a new one. The diffusion
loss (Eq. 5) is measured on photos that no phase saw, with the same crops, noise and timesteps for
all. Beside it stands what a linear predictor reaches that looks at one value of the latent alone;
a prediction of zero noise has loss 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import (
    band_losses,
    base_parser,
    crops_to_latents,
    heldout_crops,
    linear_losses,
    mean_and_spread,
    phase_config,
    report,
    table,
)

from tocsr.devices import pick_device
from tocsr.models.cost import unet_cost
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.unet import ADAPTERS
from tocsr.train import expand_unet
from tocsr.train.expand_vae import base_folder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder
    from tocsr.train.configs import ExpandUnetConfig

# Parameters in millions and diffusion loss by the paper, whose base is Stable Diffusion 1.5.
PAPER = {
    "base": ("859.395", "-"),
    "v1": ("859.43", "0.7598"),
    "v2": ("859.46", "0.084"),
    "v3": ("859.398", "0.7642"),
}


def expanded(options: argparse.Namespace, adapter: str, seed: int) -> ExpandUnetConfig:
    """The configuration of one finished run of expand-unet, run now if need be."""
    runs = options.out / f"{adapter}-{seed}"
    runs.mkdir(parents=True, exist_ok=True)
    for verb in ("pretrain", "expand-vae"):  # where the phase looks for them
        if not (runs / verb).is_symlink():
            (runs / verb).symlink_to((options.runs / verb).resolve(), target_is_directory=True)
    values = {"runs": runs, "seed": seed, "adapter": adapter}
    if options.crop:
        values["data.crop"] = options.crop
    config: ExpandUnetConfig = phase_config("expand-unet", options, "optim.num_steps", **values)
    expand_unet.run(config, report)
    return config


def losses(
    unet: CompactUNet, vae: Autoencoder, crops: Tensor, num_draws: int
) -> tuple[float, float]:
    """A U-Net's diffusion loss on an autoencoder's latents, and a linear predictor's."""
    latents = crops_to_latents(vae, crops)
    own, linear = band_losses(unet, latents, num_draws), linear_losses(latents)
    return float(np.mean(own)), float(np.mean(linear))


def row(
    name: str,
    runs: Sequence[tuple[Path, Path]],
    crops: Tensor,
    num_draws: int,
    device: torch.device,
) -> list[str]:
    """One line of the table.

    Args:
        name: A variant, or `base`.
        runs: Folder of the U-Net and of the autoencoder, for each seed.
        crops: Measured on.
        num_draws: Of noise and timestep for each crop and band.
        device: Where to compute.
    """
    pairs = [(load_unet(unet).to(device), load_vae(vae).to(device)) for unet, vae in runs]
    cost = unet_cost(pairs[0][0], 512)
    columns = zip(*(losses(*pair, crops, num_draws) for pair in pairs), strict=True)
    label = "4-channel base, on its own latents" if name == "base" else name
    cells = [mean_and_spread(column, 4) for column in columns]
    return [label, f"{cost.params:,}", f"{cost.macs_g:.3f}", *cells, *PAPER[name]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = base_parser(__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--out", type=Path, default=Path("runs/adapters"))
    parser.add_argument("--photos", type=Path, help="To train on; the preset's otherwise.")
    parser.add_argument("--test", type=Path, required=True, help="Folder of photos to measure on.")
    parser.add_argument("--crop", type=int, help="In place of the preset's.")
    parser.add_argument("--num_crops", type=int, default=256)
    parser.add_argument("--num_draws", type=int, default=4, help="A crop and quarter of timesteps.")
    options = parser.parse_args(argv)
    runs = {name: [expanded(options, name, seed) for seed in options.seeds] for name in ADAPTERS}
    folders = {
        name: [(config.folder / "unet", config.folder / "vae") for config in configs]
        for name, configs in runs.items()
    }
    config = runs["v2"][0]
    folders["base"] = [(base_folder(config, "unet"), config.runs / "pretrain" / "vae")]
    device = pick_device(config.device, config.num_threads)
    crops = heldout_crops(options.test, config.data.crop, options.num_crops)
    rows = [row(name, pairs, crops, options.num_draws, device) for name, pairs in folders.items()]
    head = [
        "ends",
        "parameters",
        "GMACs at 512 x 512",
        "diffusion loss, mean over seeds (max - min)",
    ]
    print(table([*head, "linear predictor's", "paper: M parameters", "paper: loss"], rows))


if __name__ == "__main__":
    main()
