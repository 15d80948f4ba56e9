"""Seconds, memory and arithmetic of one upscale x4: ours on every engine, and others beside it.

    python benchmarks/speed.py [--model FOLDER] [--num_threads 2] [--rounds 5]

128 -> 512 and 512 -> 2048 pixels a side. Every measurement is a process of its own, which upscales
once for warm-up and then once for the clock; a round goes through all systems, so that whatever
else the machine does meets all of them alike. After it, the process measures the machine's rate
of matrix products (float32, 2048 x 2048), of which `of the rate` is the fraction that the whole
upscale reaches: 2 operations for each of its multiply-accumulates. Medians over the rounds; the
peak is that of the process, its libraries included, and the largest of the rounds.

Real-ESRGAN x4plus is its network in PyTorch with random weights, on which speed does not depend.
`SD 1.5, one step` is its U-Net once and its autoencoder, in PyTorch with random weights: what
one-step methods without compression compute; once, at 512 pixels.
"""

# ruff: noqa: PLC0415  what is measured is the memory and the start of one system at a time
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIDES = (128, 512)
UPSCALE = 4
ONCE = "SD 1.5, one step"
ENGINES = {"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}
OTHERS = ("Lanczos", "Real-ESRGAN x4plus", ONCE)


def photo(side: int) -> Any:
    """A smooth image with some grain, uint8 (side, side, 3)."""
    rows, cols = np.indices((side, side))
    grain = np.random.default_rng(0).integers(0, 30, (side, side, 3))
    return (
        100 + 60 * np.sin(rows / 9)[:, :, None] + 40 * np.cos(cols / 7)[:, :, None] + grain
    ).astype(np.uint8)


def matrix_rate(num_threads: int) -> float:
    """Operations a second of a float32 matrix product, the best of five."""
    import torch

    torch.set_num_threads(num_threads)
    side, best = 2048, float("inf")
    a, b = torch.ones(side, side), torch.ones(side, side)
    for _ in range(6):
        started = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def peak_mib() -> float:
    """The most memory that this process has held; what its parent held is no part of it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def ours(engine: str, options: argparse.Namespace) -> Callable[[], Any]:
    """Our upscaler, from pixels to pixels."""
    from tocsr.deploy.upscaler import Upscaler

    upscaler = Upscaler.from_pretrained(options.model, options.num_threads, engine)
    return partial(upscaler, photo(options.side))


def lanczos(options: argparse.Namespace) -> Callable[[], Any]:
    """Pillow's filter."""
    from PIL import Image

    image, side = Image.fromarray(photo(options.side)), UPSCALE * options.side
    return lambda: image.resize((side, side), Image.Resampling.LANCZOS)


def real_esrgan(options: argparse.Namespace) -> Callable[[], Any]:
    """The network of Real-ESRGAN x4plus."""
    import torch
    from real_esrgan import RealESRGAN

    torch.set_num_threads(options.num_threads)
    network = RealESRGAN().eval().to(memory_format=torch.channels_last)
    pixels = torch.rand(1, 3, options.side, options.side).to(memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: network(pixels))


def stable_diffusion(options: argparse.Namespace) -> Callable[[], Any]:
    """SD 1.5's encoder, U-Net once and decoder, at four times the photo's size."""
    import torch
    from sd_step import fill_

    from tocsr.models.folders import base_unet, base_vae
    from tocsr.models.vae import decode, encode

    torch.set_num_threads(options.num_threads)
    with torch.device("meta"):
        unet, vae = base_unet("paper"), base_vae("paper", "vae")
    for network in (unet, vae):
        fill_(network)
    side = UPSCALE * options.side
    pixels, timestep = torch.rand(1, 3, side, side), torch.tensor([999.0])
    return torch.inference_mode()(lambda: decode(vae, unet(encode(vae, pixels), timestep)))


def macs(name: str, options: argparse.Namespace) -> int | None:
    """Multiply-accumulates of one upscale, where they are counted."""
    import torch

    from tocsr.models.cost import count_macs, pipeline_costs

    side = UPSCALE * options.side
    if name == "Lanczos":
        return None
    if name == "Real-ESRGAN x4plus":
        from real_esrgan import RealESRGAN

        with torch.device("meta"):
            network, image = RealESRGAN(), torch.empty(1, 3, options.side, options.side)
            return count_macs(lambda: network(image))
    if name == ONCE:
        from tocsr.models.folders import base_unet, base_vae

        with torch.device("meta"):
            unet, vae = base_unet("paper"), base_vae("paper", "vae")
    else:
        from tocsr.models.sr import OneStepGenerator

        generator = OneStepGenerator.from_pretrained(options.model)
        unet, vae = generator.unet, generator.vae
    return pipeline_costs(vae, unet, side)[-1].macs


def measured(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of one upscale, the process's peak in MiB and the machine's rate."""
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "Lanczos": partial(lanczos, options),
        "Real-ESRGAN x4plus": partial(real_esrgan, options),
        ONCE: partial(stable_diffusion, options),
    }
    engine = name.removeprefix("ours, ")
    call = makers[name]() if name in makers else ours(engine, options)
    call()
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak": peak_mib(), "rate": matrix_rate(options.num_threads)}


def child(name: str, side: int, options: argparse.Namespace) -> dict[str, float]:
    """`measured` in a process of its own."""
    command = [sys.executable, __file__, "--system", name, "--side", str(side)]
    command += ["--num_threads", str(options.num_threads), "--model", str(options.model)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each size."""
    from tocsr.preset_files import SHIPPED_MODEL

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL)
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--system", help="Measure this one here, and print JSON.")
    parser.add_argument("--side", type=int, default=SIDES[0], help="Of the photo, with --system.")
    options = parser.parse_args(argv)
    if options.system:
        print(json.dumps(measured(options.system, options)))
        return
    names = [f"ours, {engine}" for engine, package in ENGINES.items() if find_spec(package)]
    for side in SIDES:
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in (*names, *OTHERS)}
        for number in range(options.rounds):
            for name, found in rows.items():
                if name != ONCE or (number == 0 and side == SIDES[0]):
                    found.append(child(name, side, options))
        print(f"\n{side} x {side} to {UPSCALE * side} x {UPSCALE * side}\n")
        print("| system | seconds | ratio | peak MiB | GMACs | of the rate |")
        print("|---|---|---|---|---|---|")
        peer = np.median([row["seconds"] for row in rows["Real-ESRGAN x4plus"]])
        for name, found in rows.items():
            if found:
                print(
                    line(
                        name,
                        found,
                        macs(name, argparse.Namespace(**{**vars(options), "side": side})),
                        peer,
                    )
                )


def line(name: str, found: list[dict[str, float]], count: int | None, peer: float) -> str:
    """A row of the table; the ratio is to Real-ESRGAN's median."""
    seconds = float(np.median([row["seconds"] for row in found]))
    peak = max(row["peak"] for row in found)
    cells = [name, f"{seconds:.3g}", f"{seconds / peer:.3g}", f"{peak:.0f}"]
    if count is None:
        return f"| {' | '.join([*cells, '', ''])} |"
    reached = float(np.median([2 * count / row["seconds"] / row["rate"] for row in found]))
    return f"| {' | '.join([*cells, f'{count / 1e9:.4g}', f'{100 * reached:.0f} %'])} |"


if __name__ == "__main__":
    main()
