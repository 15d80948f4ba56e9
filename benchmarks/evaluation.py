"""Images per second of PSNR-Y, SSIM-Y and ST-LPIPS, against scikit-image and stlpips-pytorch.

    python benchmarks/evaluation.py [--images 4] [--systems 1] [--weights FOLDER]

Each measures the same pairs of images, image by image, from uint8 pixels on; the ways alternate,
and each has its best round. `--systems` results are compared with every reference, as in one call
of tocsr evaluate. A package that is not installed, or weights that are not there, leave their row
out. stlpips-pytorch is installed with --no-deps: from torchvision, torchsummary and IPython it
imports names that it does not use here, so modules that hold nothing but these names will do.
Seconds are the processor's, which what else runs on the machine adds little to; ratios hold within
one run. The last column is the largest difference between two values of one pair.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tocsr.data.images import to_tensor
from tocsr.deploy.metrics.subject import Subject
from tocsr.deploy.metrics.table import METRICS, load_metrics

Image = np.ndarray
Way = Callable[[Image, Sequence[Image]], list[float]]  # from a reference and results to values


def pictures(side: int, num_images: int, num_systems: int) -> list[tuple[Image, list[Image]]]:
    """References with a spectrum like a photo's, and each with noise of its own as results."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(num_images):
        noise = rng.normal(size=(side, side, 3))
        waves = sum(2**k * gaussian_filter(noise, (2**k, 2**k, 0)) for k in range(5))
        hr = np.clip(128 + 40 * waves / np.std(waves), 0, 255)
        results = [np.clip(hr + rng.normal(0, 12, hr.shape), 0, 255) for _ in range(num_systems)]
        made.append((hr.astype(np.uint8), [sr.astype(np.uint8) for sr in results]))
    return made


def ours(name: str, weights: Path | None) -> Way | None:
    ready, absent = load_metrics({name: METRICS[name]}, weights)
    if absent:
        print(f"{name}: {absent[name]}", file=sys.stderr)
        return None

    def values(hr: Image, results: Sequence[Image]) -> list[float]:
        reference = Subject(hr)
        return [ready[name](Subject(sr), reference) for sr in results]

    return values


def skimage_psnr(hr: Image, results: Sequence[Image]) -> list[float]:
    return [float(peak_signal_noise_ratio(_luma(hr), _luma(sr), data_range=255)) for sr in results]


def skimage_ssim(hr: Image, results: Sequence[Image]) -> list[float]:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return [
        float(structural_similarity(_luma(sr), _luma(hr), data_range=255, **options))
        for sr in results
    ]


def _luma(image: Image) -> Image:
    return rgb2ycbcr(image)[:, :, 0]


def package_stlpips() -> Way | None:
    """The authors' package, as its page says to use it."""
    if find_spec("stlpips_pytorch") is None:
        print("stlpips-pytorch is not installed: its row is left out", file=sys.stderr)
        return None
    package = import_module("stlpips_pytorch.stlpips")
    metric = package.LPIPS(net="alex", variant="shift_tolerant", verbose=False)

    def values(hr: Image, results: Sequence[Image]) -> list[float]:
        reference = to_tensor(hr)[None]
        return [metric(to_tensor(sr)[None], reference).item() for sr in results]

    return values


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--systems", type=int, default=1, help="Results for each reference.")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--weights", type=Path, help="Folder of stlpips_alex.safetensors.")
    parser.add_argument("--num_threads", type=int, default=1)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.num_threads)
    images = pictures(options.side, options.images, options.systems)
    print(f"{options.side} x {options.side}, {options.systems} results for each reference\n")
    print("| metric | tocsr, images/s | other | other, images/s | ratio | largest difference |")
    print("|---|---|---|---|---|---|")
    for name, other, theirs in (
        ("psnr-y", "scikit-image", skimage_psnr),
        ("ssim-y", "scikit-image", skimage_ssim),
        ("stlpips", "stlpips-pytorch", package_stlpips()),
    ):
        way = ours(name, options.weights)
        if way and theirs:
            print(row(name, other, way, theirs, images, options.rounds), flush=True)


def row(
    name: str,
    other: str,
    way: Way,
    theirs: Way,
    images: Sequence[tuple[Image, list[Image]]],
    num_rounds: int,
) -> str:
    """A line of the table."""
    best, values = [float("inf")] * 2, [[], []]
    for _ in range(num_rounds):
        for index, measure in enumerate((way, theirs)):
            began = time.process_time()
            values[index] = [value for pair in images for value in measure(*pair)]
            best[index] = min(best[index], time.process_time() - began)
    rates = [len(values[0]) / seconds for seconds in best]
    apart = max(abs(a - b) for a, b in zip(*values, strict=True))
    cells = [METRICS[name].title, f"{rates[0]:.2f}", other, f"{rates[1]:.2f}"]
    return f"| {' | '.join(cells)} | {rates[0] / rates[1]:.1f} | {apart:.1e} |"


if __name__ == "__main__":
    main()
