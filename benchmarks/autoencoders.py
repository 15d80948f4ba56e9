"""What autoencoders cost and how well they restore photos.

    python benchmarks/autoencoders.py NAME=FOLDER ... --test kodak24=FOLDER \
        --stlpips stlpips_alex.safetensors --picture sheet.png

PSNR over RGB, PSNR and SSIM on luma and ST-LPIPS of the saved image against the photo, means over
a folder; the picture shows the windows with the strongest gradients.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from common import DIGITS, contact_sheet, means, named_folder, table

from tocsr.models.cost import autoencoder_costs
from tocsr.models.folders import load_vae
from tocsr.models.perceptual import ShiftTolerantLPIPS

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("vaes", type=named_folder, nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--test", type=named_folder, action="append", required=True)
    parser.add_argument("--stlpips", type=Path, help="Weights of shift-tolerant LPIPS.")
    parser.add_argument("--picture", type=Path, help="PNG of crops side by side.")
    parser.add_argument("--num_threads", type=int, default=0, help="CPU threads; 0 takes all.")
    options = parser.parse_args(argv)
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    stlpips = ShiftTolerantLPIPS.from_file(options.stlpips) if options.stlpips else None
    vaes = {name: load_vae(folder).requires_grad_(False) for name, folder in options.vaes}
    rows = []
    for name, vae in vaes.items():
        costs = autoencoder_costs(vae, 512)
        cost = [f"{sum(c.params for c in costs):,}", f"{sum(c.macs_g for c in costs):.2f}"]
        for test, folder in options.test:
            found = means(vae, folder, stlpips)
            cells = [f"{value:.{DIGITS[measure]}f}" for measure, value in found.items()]
            rows.append([name, *cost, test, *cells])
    print(table(["autoencoder", "parameters", "GMACs at 512 x 512", "test", *found], rows))
    if options.picture:
        contact_sheet(vaes, [folder for _, folder in options.test]).save(options.picture)


if __name__ == "__main__":
    main()
