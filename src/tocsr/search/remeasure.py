"""The gap of the selected model once more, from its saved weights, in a fresh process.

Not in the paper. What the search measured, it measured on modules in memory; this is what a user
gets who loads the folder.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tocsr.devices import pick_device
from tocsr.errors import ExitCode, TocsrError
from tocsr.models.folders import load_unet, load_vae
from tocsr.search.configs import SelectConfig, settings_of
from tocsr.search.fidelity import capture_targets, fidelity_gap

if TYPE_CHECKING:
    from tocsr.config import PhaseConfig

_FRESH = """
import sys
from tocsr.search.remeasure import gap_of_saved
print(gap_of_saved(*sys.argv[1:]))
"""
# Equal settings on one machine give equal bits. Another device or number of threads adds in
# another order, which in float32 changes a gap by about 1e-7 of itself, a small one by more.
RELATIVE_TOLERANCE = 1e-4


def gap_of_saved(runs: str, device: str, num_threads: str) -> float:
    """F(a) of the U-Net in `select/unet`, on the search's calibration set, made anew (Eq. 11).

    Args:
        runs: Folder of the runs.
        device: As of every phase.
        num_threads: As of every phase.
    """
    told = SelectConfig(runs=Path(runs), device=device, num_threads=int(num_threads))
    place, folder = pick_device(told.device, told.num_threads), told.runs / "expand-unet"
    config = settings_of(told.runs / "search", told)
    targets = capture_targets(
        load_unet(folder / "unet").to(place),
        load_vae(folder / "vae").to(place),
        config.data,
        config.num_samples,
        config.batch_size,
        config.seed,
    )
    return fidelity_gap(load_unet(told.folder / "unet").to(place), targets)


def remeasured_gap(config: PhaseConfig, gap: float) -> float:
    """The gap of the saved model, measured in a process of its own.

    Args:
        config: Says where the runs are, and where to compute.
        gap: What the search measured.

    Raises:
        TocsrError: The process failed, or what it measured is another gap.
    """
    told = (str(config.runs), config.device, str(config.num_threads))
    command = [sys.executable, "-c", _FRESH, *told]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TocsrError(f"the saved model could not be measured: {reason}", code=ExitCode.MODEL)
    again = float(done.stdout.split()[-1])
    if not abs(again - gap) <= RELATIVE_TOLERANCE * max(again, gap):
        raise TocsrError(
            f"the saved model must have the gap that the search measured, {gap:.6g}, and has "
            f"{again:.6g}",
            "run select on the device that search ran on; if the gaps still differ, remove the "
            "search folder and search again",
            ExitCode.MODEL,
        )
    return again
