"""What fine-tuning gives back to the selected U-Net (Eq. 16), against training it from scratch.

    python benchmarks/finetune.py --preset tiny --runs runs/tiny --out runs/finetune --test FOLDER

`--runs` holds the finished expand-unet and select. The phase finetune runs once a seed from the
assembled surrogates and once from new weights of the same architecture, for the same steps, in
folders of their own under `--out`; a stopped command goes on where it was. The gap to the teacher
(Eq. 11) and the diffusion loss (Eq. 5) are measured on photos that no phase saw, with the same
crops, noise and timesteps for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from common import (
    band_losses,
    base_parser,
    crops_to_latents,
    heldout_crops,
    mean_and_spread,
    phase_config,
    report,
    table,
)

from tocsr.diffusion import NoiseSchedule, add_noise, draws
from tocsr.models.compact import CompactUNet
from tocsr.models.cost import model_params
from tocsr.models.folders import load_unet, load_vae
from tocsr.seeding import derive_seed
from tocsr.train import finetune

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from torch import Tensor

STARTS = {"surrogates": "fine-tuned", "scratch": "from scratch"}


def tuned(options: argparse.Namespace, start: str, seed: int) -> Path:
    """Folder of the U-Net of one finished run of finetune, run now if need be."""
    runs = options.out / f"{start}-{seed}"
    runs.mkdir(parents=True, exist_ok=True)
    for verb in ("expand-unet", "select") if start == "surrogates" else ("expand-unet",):
        if not (runs / verb).is_symlink():
            (runs / verb).symlink_to((options.runs / verb).resolve(), target_is_directory=True)
    if start == "scratch" and not (runs / "select").exists():
        selected = load_unet(options.runs / "select" / "unet")
        torch.manual_seed(derive_seed(seed, "scratch"))
        own = {k: v for k, v in selected.config.items() if not k.startswith("_")}
        CompactUNet(**own).save_pretrained(runs / "select" / "unet")
        result = (options.runs / "select" / "result.json").read_text(encoding="utf-8")
        (runs / "select" / "result.json").write_text(result, encoding="utf-8")
    config = phase_config("finetune", options, "optim.num_steps", runs=runs, seed=seed)
    finetune.run(config, report)
    return config.folder / "unet"


@torch.no_grad()
def gap(unet: CompactUNet, teacher: CompactUNet, latents: Tensor, num_draws: int) -> float:
    """F of Eq. 11 on given latents."""
    schedule, errors = NoiseSchedule(), []
    for draw in range(num_draws):
        for i, clean in enumerate(latents.split(32)):
            indices = list(range(32 * i, 32 * i + len(clean)))
            noise, timestep = draws(schedule, clean, derive_seed(draw, "gap"), indices)
            noisy = add_noise(schedule, clean, noise, timestep)
            error = (unet(noisy, timestep) - teacher(noisy, timestep)).double().square()
            errors.append(error.flatten(1).mean(1))
    return float(torch.cat(errors).mean())


def main(argv: Sequence[str] | None = None) -> None:
    parser = base_parser(__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--photos", type=Path, help="To train on; the preset's otherwise.")
    parser.add_argument("--test", type=Path, required=True, help="Folder of photos to measure on.")
    parser.add_argument("--crop", type=int, default=128, help="Side of the crops measured on.")
    parser.add_argument("--num_crops", type=int, default=256)
    parser.add_argument("--num_draws", type=int, default=4, help="Of noise and timestep a crop.")
    options = parser.parse_args(argv)
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    folder = options.runs / "expand-unet"
    vae = load_vae(folder / "vae").requires_grad_(False)
    teacher = load_unet(folder / "unet").requires_grad_(False)
    latents = crops_to_latents(vae, heldout_crops(options.test, options.crop, options.num_crops))
    networks = {
        "teacher": [folder / "unet"],
        "assembled, as selected": [options.runs / "select" / "unet"],
        **{name: [tuned(options, s, k) for k in options.seeds] for s, name in STARTS.items()},
    }
    rows = []
    for name, folders in networks.items():
        unets = [load_unet(path).requires_grad_(False) for path in folders]
        gaps = [gap(unet, teacher, latents, options.num_draws) for unet in unets]
        losses = [float(np.mean(band_losses(unet, latents, options.num_draws))) for unet in unets]
        cells = [mean_and_spread(gaps, 5), mean_and_spread(losses, 4)]
        rows.append([name, f"{model_params(unets[0]):,}", *cells])
    head = ["U-Net", "parameters", "gap (Eq. 11)", "diffusion loss (Eq. 5)"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
