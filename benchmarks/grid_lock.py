"""How much of a one-step model's detail is tied to the grid of its latent's cells.

    python benchmarks/grid_lock.py --hr FOLDER --lr FOLDER --metric_weights FOLDER
        [--models NAME=FOLDER ...]

A cell is 8 x 8 pixels of the result. Each image is upscaled with the grid lying at each of the 64
places of a cell, from the same start noise. Detail that belongs to the photo is in all of these
results; a weave or a net of dots moves with the grid, and is not in their mean. `spread` is the
root mean square distance of results from their mean, in 8-bit levels. `repeats` is
`tocsr.models.detail.repetition`; photos have about 0.1. Measured are left upper corners of `--side`
pixels.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from common import DIGITS, measures, named_folder, photos, table
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tocsr.data.images import to_tensor, to_uint8
from tocsr.devices import pick_device
from tocsr.models.detail import repetition
from tocsr.models.perceptual import ShiftTolerantLPIPS
from tocsr.models.sr import OneStepGenerator
from tocsr.models.vae import LATENT_STRIDE, upsample
from tocsr.preset_files import SHIPPED_MODEL
from tocsr.seeding import numpy_rng

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

MEASURED = ("PSNR-Y", "SSIM-Y", "ST-LPIPS", "repeats")


@torch.no_grad()
def by_place(model: OneStepGenerator, image: Tensor) -> Iterator[Tensor]:
    """Results of an image (1, 3, H, W), one for each place of the grid, that of offset 0 first."""
    multiple, (height, width) = model.facts.pixel_multiple, image.shape[-2:]
    rows, columns = (side + LATENT_STRIDE for side in (height, width))
    rows, columns = (side + -side % multiple for side in (rows, columns))
    latent = (1, model.facts.latent_channels, rows // LATENT_STRIDE, columns // LATENT_STRIDE)
    drawn = numpy_rng(0, "grid lock").standard_normal(latent, dtype=np.float32)
    noise = torch.from_numpy(drawn).to(image.device)
    for top, left in product(range(LATENT_STRIDE), repeat=2):
        pad = (left, columns - width - left, top, rows - height - top)
        result = model(F.pad(image, pad, mode="replicate"), noise)
        yield result[..., top : top + height, left : left + width]


def rows(
    name: str,
    model: OneStepGenerator,
    pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    stlpips: ShiftTolerantLPIPS | None,
) -> Iterator[list[str]]:
    """The table's rows of one model, measured on pairs of high and low resolution."""
    every: dict[str, list[dict[str, float]]] = {"bicubic": [], name: [], f"{name}, mean": []}
    spreads = []
    for hr, lr in pairs:
        image = upsample(to_tensor(lr)[None].to(model.vae.device), model.facts.upscale)
        results = torch.cat(list(by_place(model, image)))
        mean = results.mean(dim=0)
        spreads.append((results - mean).square().mean().sqrt().item())
        for row, result in zip(every.values(), (image[0], results[0], mean), strict=True):
            repeats = repetition(result[None]).item()
            row.append(measures(to_uint8(result), hr, stlpips) | {"repeats": repeats})
    for label, found in every.items():
        means = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
        spread = f"{127.5 * float(np.mean(spreads)):.2f}" if label == name else ""
        yield [
            label,
            *(f"{means[key]:.{DIGITS.get(key, 3)}f}" for key in MEASURED if key in means),
            spread,
        ]


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shipped = [("shipped", SHIPPED_MODEL)]
    parser.add_argument("--models", type=named_folder, nargs="+", default=shipped)
    parser.add_argument("--hr", type=Path, required=True)
    parser.add_argument("--lr", type=Path, required=True)
    parser.add_argument("--metric_weights", type=Path)
    parser.add_argument("--side", type=int, default=256, help="A multiple of 16, at least 64.")
    parser.add_argument("--num_threads", type=int, default=0, help="CPU threads; 0 takes all.")
    options = parser.parse_args(argv)
    device = pick_device("auto", options.num_threads)
    stlpips = None
    if options.metric_weights:
        weights = options.metric_weights / "stlpips_alex.safetensors"
        stlpips = ShiftTolerantLPIPS.from_file(weights).to(device)
    pairs = [
        (hr[: options.side, : options.side], lr)
        for hr, lr in zip(photos(options.hr), photos(options.lr), strict=True)
    ]
    lines = []
    for name, folder in options.models:
        model = OneStepGenerator.from_pretrained(folder).float().eval().to(device)
        side = options.side // model.facts.upscale
        crops = [(hr, lr[:side, :side]) for hr, lr in pairs]
        bicubic, *own = rows(name, model, crops, stlpips)
        lines += own if lines else [bicubic, *own]
    head = [key for key in MEASURED if stlpips or key != "ST-LPIPS"]
    print(table(["result", *head, "spread"], lines))


if __name__ == "__main__":
    main()
