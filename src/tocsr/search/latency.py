"""How long each block of a library takes on this machine.

Not in the paper, which counts parameters.
"""

from __future__ import annotations

import platform
import re
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tocsr.models.vae import LATENT_STRIDE
from tocsr.models.variants import TEACHER
from tocsr.search.objectives import REST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from tocsr.models.compact import CompactUNet
    from tocsr.models.stages import Stage
    from tocsr.search.objectives import Library


def machine_name(device: torch.device) -> str:
    """The processor or GPU that computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@torch.no_grad()
def median_ms(
    calls: Mapping[str, Callable[[], object]],
    num_rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median time of each call in milliseconds, after one round to warm up.

    Each round times every call once, so that what else the machine does meets all of them alike.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(num_rounds + 1):
        for name, call in calls.items():
            _wait_for(device)
            start = clock()
            call()
            _wait_for(device)
            if round_number:
                times[name].append(clock() - start)
    return {name: 1000 * median(values) for name, values in times.items()}


def _noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def _arguments(
    teacher: CompactUNet, stage: Stage, pixels: int
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """What a stage is called with for one image of `pixels` x `pixels`."""
    side = pixels // LATENT_STRIDE
    inputs = [_noise(port.shape(1, side), teacher.device) for port in stage.inputs]
    temb = teacher.embed_time(0, inputs[0])
    return inputs, temb, teacher.context


@torch.no_grad()
def measured_latency(
    teacher: CompactUNet,
    surrogates: Mapping[str, nn.Module],
    library: Library,
    pixels: int,
    num_rounds: int,
) -> dict[str, Any]:
    """The latency of every block for one image, as `latency.json` holds it.

    Args:
        teacher: On the device that is to be measured.
        surrogates: `stage/variant` -> block, on the same device.
        library: Stage -> variants.
        pixels: Side of the image.
        num_rounds: Measurements of each block.
    """
    device = teacher.device
    calls: dict[str, Callable[[], object]] = {}
    for stage in teacher.stage_table:
        arguments = _arguments(teacher, stage, pixels)
        for name in library[stage.name]:
            own = name == TEACHER
            block = teacher.stages[stage.name] if own else surrogates[f"{stage.name}/{name}"]
            calls[f"{stage.name}/{name}"] = partial(block, *arguments)
    calls[REST] = partial(_compute_rest, teacher, *unet_inputs(teacher, pixels))
    return {
        "machine": machine_name(device),
        "num_threads": torch.get_num_threads(),
        "pixels": pixels,
        "num_rounds": num_rounds,
        "median_ms": median_ms(calls, num_rounds, device),
    }


def unet_inputs(unet: CompactUNet, pixels: int) -> tuple[Tensor, Tensor]:
    """z_t and t that a U-Net is called with for one image of `pixels` x `pixels`."""
    side = pixels // LATENT_STRIDE
    channels = unet.latent_channels + unet.config.condition_channels
    sample = _noise((1, channels, side, side), unet.device)
    return sample, torch.zeros(1, dtype=torch.long, device=unet.device)


def _compute_rest(unet: CompactUNet, sample: Tensor, timestep: Tensor) -> Tensor:
    unet.embed_time(timestep, sample)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(unet.conv_in(sample))))
