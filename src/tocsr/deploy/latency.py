"""How long a finished model takes on this machine, part by part and engine by engine."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tocsr.deploy.graphs import GRAPH, INT8_FORM, is_installed, open_graph
from tocsr.models.sr import one_step
from tocsr.models.vae import latents_to_pixels, pixels_to_latents

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tocsr.models.sr import OneStepGenerator

NUM_WARM_UP = 3
_PROCESS = Path("/proc/self")


@dataclass(frozen=True, kw_only=True)
class Latency:
    """What one computation took.

    Args:
        median_ms: Half of the runs took longer.
        late_ms: The 95th percentile.
        peak_mib: Most memory that the process held meanwhile, PyTorch itself and the weights
            included; None where the system does not say (not Linux).
    """

    median_ms: float
    late_ms: float
    peak_mib: float | None

    def __str__(self) -> str:
        peak = "not counted" if self.peak_mib is None else f"{self.peak_mib:.0f} MiB"
        return f"median {self.median_ms:.1f} ms, 95th percentile {self.late_ms:.1f} ms, peak {peak}"


def forget_peak() -> bool:
    """Lets the system's peak of this process begin anew; whether it could (Linux)."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_mib() -> float:
    """The most memory that this process held since `forget_peak`, in MiB."""
    lines = (_PROCESS / "status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def cpu_name() -> str:
    """What the processor calls itself, where the system says it."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measured(call: Callable[[], object], num_runs: int) -> Latency:
    """Times a computation, after `NUM_WARM_UP` runs that are not timed.

    Args:
        call: It; must have finished when it returns.
        num_runs: Timed runs, at least 1.
    """
    knows_peak = forget_peak()
    seconds = []
    for _ in range(NUM_WARM_UP + num_runs):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    peak = peak_mib() if knows_peak else None
    median, late = np.percentile(1000 * np.array(seconds[NUM_WARM_UP:]), (50, 95))
    return Latency(median_ms=float(median), late_ms=float(late), peak_mib=peak)


def part_latencies(model: OneStepGenerator, pixels: int, num_runs: int) -> dict[str, Latency]:
    """Encoder, U-Net, decoder and whole in PyTorch, float32 on the CPU, channels last.

    Args:
        model: A finished model; it is left in the layout channels last.
        pixels: Side of the result.
        num_runs: Timed runs of each.
    """
    model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image, noise = (torch.from_numpy(values) for values in example(model, pixels))
    vae, unet, schedule = model.vae, model.unet, model.schedule
    with torch.inference_mode():
        latent = pixels_to_latents(vae, image)
        return {
            "encoder": measured(lambda: pixels_to_latents(vae, image), num_runs),
            "unet": measured(lambda: one_step(unet, schedule, noise, latent), num_runs),
            "decoder": measured(lambda: latents_to_pixels(vae, latent), num_runs),
            "whole": measured(lambda: model(image, noise), num_runs),
        }


def engine_latencies(
    folder: Path, model: OneStepGenerator, pixels: int, num_runs: int, num_threads: int
) -> dict[str, Latency]:
    """The whole in every engine that runs the folder's graph and is installed; none without one."""
    image, noise = example(model, pixels)
    found = {}
    forms = {"onnx": GRAPH, "openvino": GRAPH, "openvino-int8": INT8_FORM}
    for name, file in forms.items():
        if (folder / file).is_file() and is_installed(name):
            graph = open_graph(folder, name, "cpu", num_threads)
            found[f"whole, {graph.engine}"] = measured(partial(graph, image, noise), num_runs)
    return found


def example(model: OneStepGenerator, pixels: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """An image (1, 3, pixels, pixels) of noise in [-1, 1], and start noise for it."""
    rng, latent = np.random.default_rng(0), pixels // model.facts.latent_stride
    image = rng.uniform(-1, 1, (1, 3, pixels, pixels)).astype(np.float32)
    noise = rng.standard_normal((1, model.facts.latent_channels, latent, latent))
    return image, noise.astype(np.float32)
