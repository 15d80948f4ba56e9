"""What a process that evaluates candidates does; it loads the networks itself, once.

The functions here are the tasks of an executor, so they may be called in any process.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tocsr.config import require
from tocsr.devices import pick_device
from tocsr.files import read_json
from tocsr.models.compact import assembled
from tocsr.models.folders import load_surrogates, load_unet, load_vae
from tocsr.models.vae import LATENT_STRIDE
from tocsr.search.fidelity import capture_targets, teacher_power
from tocsr.search.frechet import sample_features
from tocsr.search.prefixes import FidelityGap

if TYPE_CHECKING:
    from torch import Tensor

    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder
    from tocsr.search.configs import SearchConfig
    from tocsr.search.prefixes import Choice, Measured


@dataclass(frozen=True)
class Networks:
    """What a search reads, on its device.

    Args:
        teacher: The expanded U-Net.
        vae: The expanded autoencoder.
        surrogates: `stage/variant` -> calibrated block.
    """

    teacher: CompactUNet
    vae: Autoencoder
    surrogates: dict[str, Any]


def as_settings(config: SearchConfig) -> bytes:
    """The configuration, and where its relative paths begin, as the tasks take them.

    Pickled: a key of a cache must be hashable, and a configuration with lists is not.
    """
    return pickle.dumps((config, Path.cwd()))


def _config(settings: bytes) -> SearchConfig:
    """The configuration; goes where its paths begin.

    Raises:
        TocsrError: The worker's machine does not see the caller's folder.
    """
    config, place = pickle.loads(settings)
    require(
        place.is_dir(),
        f"every machine of the cluster must see the folder {place}",
        "work in a folder that all machines share",
    )
    os.chdir(place)
    return config


@lru_cache(maxsize=1)
def networks(settings: bytes) -> Networks:
    """The networks that expand-unet and calibrate made.

    Args:
        settings: Made by `as_settings`.
    """
    config = _config(settings)
    device = pick_device(config.device, config.num_threads)
    folder, calibrated = config.runs / "expand-unet", config.runs / "calibrate"
    teacher = load_unet(folder / "unet").to(device).requires_grad_(False)
    vae = load_vae(folder / "vae").to(device).requires_grad_(False)
    names = read_json(calibrated / "result.json")["surrogates"]
    return Networks(teacher, vae, load_surrogates(teacher, calibrated / "surrogates", names))


@lru_cache(maxsize=1)
def _fidelity(settings: bytes) -> FidelityGap:
    """The calibration set, and what is known of it."""
    config = _config(settings)
    nets = networks(settings)
    targets = capture_targets(
        nets.teacher,
        nets.vae,
        config.data,
        config.num_samples,
        config.batch_size,
        config.seed,
        config.cache_mb,
    )
    return FidelityGap(nets.teacher, nets.surrogates, targets, config.cache_mb)


def measure(settings: bytes, abandon_above: float, choice: Choice) -> Measured:
    """The gap of one candidate.

    Args:
        settings: Made by `as_settings`.
        abandon_above: As of `FidelityGap`.
        choice: Stage -> variant.
    """
    return _fidelity(settings)(choice, abandon_above)


def measure_power(settings: bytes, _: None) -> float:
    """The teacher's power on the calibration set."""
    return teacher_power(_fidelity(settings).targets)


def draw_features(settings: bytes, choice: Choice) -> Tensor:
    """Features of a candidate's samples, for the Frechet distance; float64 (N, 2 Z).

    Args:
        settings: Made by `as_settings`.
        choice: Stage -> variant.
    """
    config = _config(settings)
    nets = networks(settings)
    return sample_features(
        assembled(nets.teacher, choice, nets.surrogates),
        nets.vae,
        config.data.crop // LATENT_STRIDE,
        config.num_frechet_samples,
        config.batch_size,
        config.num_denoise_steps,
        config.seed,
    )


def forget() -> None:
    """Lets go of the networks and features that this process holds."""
    networks.cache_clear()
    _fidelity.cache_clear()
