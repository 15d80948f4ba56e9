"""What 16 latent channels give a reconstruction that 4 do not: the paper's table S5, figure S4.

    python benchmarks/latent_channels.py --photos FOLDER --runs runs/channels \
        --test Kodak24=FOLDER --test photos512=FOLDER --stlpips FILE --picture FILE

One network, the preset's `vae_teacher`, is trained with 4 and with 16 latent channels and each
seed, everything else equal. A stopped command goes on where it was. Results are measured as saved
8-bit images: PSNR over R, G and B, PSNR-Y and SSIM-Y by BT.601 'ycbcr', border 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from common import (
    DIGITS,
    base_parser,
    contact_sheet,
    mean_and_spread,
    means,
    named_folder,
    phase_config,
    report,
    table,
)

from tocsr.devices import pick_device
from tocsr.models.cost import autoencoder_costs
from tocsr.models.folders import base_vae, load_vae
from tocsr.models.perceptual import ShiftTolerantLPIPS
from tocsr.models.starts import principal_start_
from tocsr.models.vae import reconstruct, reconstruction_loss
from tocsr.runs import Run
from tocsr.seeding import derive_seed
from tocsr.train.loop import fit
from tocsr.train.pretrain import measure_scale_, sample_images

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from tocsr.models.vae import Autoencoder
    from tocsr.train.configs import PretrainConfig

CHANNELS = (4, 16)


def trained(options: argparse.Namespace, channels: int, seed: int) -> Autoencoder:
    """The autoencoder of one run, from its folder or trained now as `pretrain` trains it."""
    runs = options.runs / f"{channels}-{seed}"
    config = phase_config("pretrain", options, "vae_teacher.num_steps", runs=runs, seed=seed)
    device = pick_device(config.device, config.num_threads)
    with Run.open(config) as run:
        if not run.result():
            run.finish(train(config, run, channels, device))
    return load_vae(config.folder).to(device)


def train(
    config: PretrainConfig, run: Run, channels: int, device: torch.device
) -> dict[str, float]:
    torch.manual_seed(derive_seed(config.seed, "vae_teacher"))
    base = base_vae(config.preset, "vae_teacher")
    settings = {k: v for k, v in base.config.items() if not k.startswith("_")}
    vae = type(base)(**{**settings, "latent_channels": channels}).to(device)
    principal_start_(vae, sample_images(config.data, config.seed).to(device))
    figures = fit(
        run,
        f"{channels} channels, seed {config.seed}",
        {"vae": vae},
        lambda batch: {
            "loss": reconstruction_loss(
                reconstruct(vae, batch.images)[1], batch.images, config.rec_norm
            )
        },
        data=config.data,
        optim=config.vae_teacher,
        seed=config.seed,
        device=device,
        report=report,
    )
    measure_scale_(vae, config.data, config.seed, device, config.num_scale_crops)
    vae.save_pretrained(run.folder)
    return figures


def quality_rows(
    models: dict[int, list[Autoencoder]],
    tests: Sequence[tuple[str, Path]],
    stlpips: ShiftTolerantLPIPS | None,
) -> list[list[str]]:
    few, many = CHANNELS
    rows = []
    for name, folder in tests:
        found = {c: [means(vae, folder, stlpips) for vae in models[c]] for c in CHANNELS}
        for measure in found[few][0]:
            values = {c: [row[measure] for row in found[c]] for c in CHANNELS}
            gain = [b - a for a, b in zip(values[few], values[many], strict=True)]
            cells = [mean_and_spread(v, DIGITS[measure]) for v in (*values.values(), gain)]
            rows.append([name, measure, *cells])
    return rows


def cost_rows(models: dict[int, list[Autoencoder]]) -> list[list[str]]:
    costs = {c: autoencoder_costs(models[c][0], 512) for c in CHANNELS}
    params = [sum(part.params for part in costs[c]) for c in CHANNELS]
    macs = [sum(part.macs_g for part in costs[c]) for c in CHANNELS]
    return [
        ["-", "parameters", *(f"{n:,}" for n in params), f"{params[1] - params[0]:,}"],
        ["-", "GMACs at 512 x 512", *(f"{g:.2f}" for g in macs), f"{macs[1] - macs[0]:.2f}"],
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = base_parser(__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--photos", type=Path, help="To train on; the preset's otherwise.")
    parser.add_argument("--runs", type=Path, default=Path("runs/latent_channels"))
    parser.add_argument("--test", type=named_folder, action="append", required=True)
    parser.add_argument("--stlpips", type=Path, help="Weights of shift-tolerant LPIPS.")
    parser.add_argument("--picture", type=Path, help="PNG of crops side by side.")
    options = parser.parse_args(argv)
    stlpips = ShiftTolerantLPIPS.from_file(options.stlpips) if options.stlpips else None
    models = {c: [trained(options, c, seed) for seed in options.seeds] for c in CHANNELS}
    if stlpips:
        stlpips.to(models[CHANNELS[0]][0].device)
    head = ["test", "mean over seeds (max - min)", "4 channels", "16 channels", "16 - 4"]
    print(table(head, [*quality_rows(models, options.test, stlpips), *cost_rows(models)]))
    print("\nThe paper's, of other networks: PSNR 28.83 and 29.03, SSIM 0.795 and 0.919.")
    if options.picture:
        first = {f"{channels} channels": vaes[0] for channels, vaes in models.items()}
        contact_sheet(first, [folder for _, folder in options.test]).save(options.picture)


if __name__ == "__main__":
    main()
