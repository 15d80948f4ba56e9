"""Where to compute."""

from __future__ import annotations

import torch

from tocsr.errors import TocsrError
from tocsr.processes import local_rank, num_processes


def pick_device(name: str, num_threads: int = 0) -> torch.device:
    """The device called `name`; `auto` takes CUDA, then Apple's GPU, then the CPU.

    Of several processes each takes the GPU of its own number.

    Raises:
        TocsrError: This machine or this PyTorch has no such device, or all processes would share
            it.
    """
    if num_threads:
        torch.set_num_threads(num_threads)
    if name == "auto":
        has_mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if num_processes() > 1:
        if name == "cuda":
            name = f"cuda:{local_rank()}"
        elif name != "cpu":
            raise TocsrError(
                f"{num_processes()} processes train on device cuda or cpu, got '{name}'",
                "with cuda, each process takes the GPU of its own number",
            )
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise TocsrError(f"device '{name}' cannot be used: {reason}", "try --device cpu") from error
    return torch.device(name)
