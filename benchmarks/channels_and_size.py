"""4 or 16 latent channels, a compact U-Net or one twice as large: the paper's table S7.

    python benchmarks/channels_and_size.py --runs runs/tiny --out runs/channels --hr FOLDER \
        --degradation mild --metric_weights FOLDER

`--runs` holds the finished pretrain. The preset's recipe runs once for each number of channels up
to the search, and from there on for each seed with the search's winner nearest to each of
`--budgets`. So the four cells have the same teacher, recipe and numbers of steps. `--photos` and
`--degradation` are for train-sr and distill; the phases before take the preset's photos. Every
folder is under `--out`, and a stopped command goes on where it was. Measured as in one_step.py, on
`--hr` degraded alike or on `--lr`; of several seeds the mean and, in brackets, the spread.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from common import link_phases, means, phase_config, table
from one_step import (
    DEFAULT_METRICS,
    as_system,
    cells,
    labelled_report,
    measured,
    measuring_parser,
    say_absent,
    tested_images,
)

from tocsr.deploy.metrics.table import chosen_metrics, load_metrics
from tocsr.models.cost import pipeline_costs
from tocsr.models.sr import OneStepGenerator
from tocsr.verbs import runner

if TYPE_CHECKING:
    from collections.abc import Sequence

CHANNELS = (4, 16)
PAPER = (
    "PSNR and LPIPS with 130 M and with 300 M parameters: 4 channels 23.24, 0.291 and 23.75, "
    "0.302; 16 channels 24.26, 0.242 and 24.73, 0.257."
)
UP_TO_SEARCH = ("expand-vae", "expand-unet", "calibrate", "search")


def run_phase(verb: str, options: argparse.Namespace, runs: Path, **values: object) -> None:
    """Runs a phase of the preset, if it is not finished."""
    config = phase_config(verb, options, "optim.num_steps", runs=runs, **values)
    runner(verb)(config, partial(labelled_report, f"{runs.name} "))


def trained_model(options: argparse.Namespace, channels: int, budget: int, seed: int) -> Path:
    """Folder of a cell's one-step model, trained now if need be."""
    base = argparse.Namespace(**{**vars(options), "photos": None, "num_steps": None})
    shared = options.out / str(channels)
    link_phases(shared, options.runs, ["pretrain"])
    run_phase("expand-vae", base, shared, latent_channels=channels)
    for verb in UP_TO_SEARCH[1:]:
        run_phase(verb, base, shared)
    runs = options.out / f"{channels}-{budget}-{seed}"
    link_phases(runs, shared, UP_TO_SEARCH)
    run_phase("select", base, runs, budget=budget, rule="nearest")
    run_phase("finetune", base, runs, seed=seed)
    for verb in ("train-sr", "distill"):
        values = {"seed": seed, "task.degradation": options.degradation}
        run_phase(verb, options, runs, **values)
    return runs / "distill" / "model"


def main(argv: Sequence[str] | None = None) -> None:
    parser = measuring_parser(__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--out", type=Path, default=Path("runs/channels"))
    parser.add_argument("--budgets", type=int, nargs="+", default=[320_000, 708_000])
    parser.add_argument("--degradation", default="mild")
    options = parser.parse_args(argv)
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    rows = chosen_metrics(DEFAULT_METRICS, (), has_reference=True)
    metrics, absent = load_metrics(rows, options.metric_weights)
    lines = []
    for channels, budget in product(CHANNELS, options.budgets):
        folders = [trained_model(options, channels, budget, seed) for seed in options.seeds]
        models = [OneStepGenerator.from_pretrained(folder).eval() for folder in folders]
        upscale = models[0].facts.upscale
        images = tested_images(options, upscale, options.degradation)
        figures = [measured(as_system(model, upscale), images, metrics) for model in models]
        alone = means(models[0].vae, options.hr, None)["PSNR-Y"]
        _, unet, _, whole = pipeline_costs(models[0].vae, models[0].unet, 512)
        networks = [str(channels), f"{alone:.2f}", f"{unet.params:,}", f"{whole.macs_g:.2f}"]
        lines.append([*networks, *cells(figures, rows)])
    titles = [rows[name].title for name in metrics]
    print(table(["channels", "autoencoder alone", "U-Net", "GMACs", *titles], lines))
    say_absent(absent, rows)
    print(f"\nThe paper's on DIV2K-Val, {PAPER}")


if __name__ == "__main__":
    main()
