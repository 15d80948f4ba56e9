"""What a phase would do: shapes, parameters, GMACs, memory, steps and files, without weights.

Networks are built on the meta device, so a plan of SD 1.5 takes seconds and no memory.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from tocsr.config import OptimConfig
from tocsr.data.sources import list_photos
from tocsr.errors import TocsrError
from tocsr.models.vae import LATENT_STRIDE
from tocsr.options import hand_on, read_config
from tocsr.plans.library import library_rows, phase_library
from tocsr.plans.networks import network_rows, phase_networks
from tocsr.plans.training import training_rows
from tocsr.runs import as_plain, read_result

if TYPE_CHECKING:
    from tocsr.config import DataConfig, PhaseConfig
    from tocsr.restoration import TaskConfig

MADE_BY = {
    "pretrain": ["vae/", "vae_teacher/", "unet/"],
    "expand-vae": ["vae/"],
    "expand-unet": ["unet/", "vae/"],
    "calibrate": ["surrogates/<stage>/<variant>.{safetensors,json}"],
    "search": ["ledger.jsonl", "front.json", "front.png", "table.md"],
    "select": ["unet/"],
    "finetune": ["unet/"],
    "train-sr": ["unet/"],
    "distill": ["targets/*.safetensors", "model/"],
}


def _shapes_row(data: DataConfig, networks: dict[str, Any]) -> str:
    """One sample's image and its latent in each autoencoder."""
    side = data.crop // LATENT_STRIDE
    channels = {n.config.latent_channels for key, n in networks.items() if key.startswith("vae")}
    latents = " and ".join(f"{z} x {side} x {side}" for z in sorted(channels))
    return f"images 3 x {data.crop} x {data.crop}, latents {latents}"


def _data_rows(data: DataConfig) -> dict[str, str]:
    """Each source's photos or pairs after its limit, and its share of the samples."""
    rows = {}
    weights = sum(source.weight for source in data.sources)
    for source in data.sources:
        limit = f", limit {source.limit:,}" if source.limit else ""
        try:
            listed = list_photos(source, data.fraction)
            photos = f"{len(listed):,} {'pairs' if listed[0].lr else 'photos'}"
        except TocsrError as error:
            photos = f"not there yet: {error.message}"
        rows[source.path] = f"{photos} ({source.weight / weights:.1%} of the samples{limit})"
    return rows


def _task_rows(task: TaskConfig) -> dict[str, Any]:
    """The task, with what replaces parts of its row."""
    metrics = ", ".join(task.metrics)
    return {**as_plain(task), "condition": task.condition, "metrics": metrics}


def plan_phase(config: PhaseConfig, *, step: bool = True) -> dict[str, Any]:
    """What one phase would do.

    Args:
        config: The phase.
        step: Whether to count what an optimiser step takes, which is most of a plan's seconds.
    """
    networks = phase_networks(config)
    finished = read_result(config.folder) is not None
    result: dict[str, Any] = {
        "phase": config.verb,
        "state": "finished" if finished else "begun" if config.folder.exists() else "not begun",
        "networks": network_rows(networks),
    }
    goes_on = getattr(config, "start_folder", None)
    by_selection = config.verb in ("finetune", "train-sr", "distill") and not goes_on
    if by_selection and not read_result(config.runs / "select"):
        result["note"] = "nothing is selected yet: the U-Net is counted with the teacher's blocks"
    trainings = {
        f.name: training_rows(config, f.name, networks, step)
        for f in fields(config)
        if isinstance(getattr(config, f.name), OptimConfig)
        and (f.name != "sharpen_optim" or getattr(config, "sharpen", False))
    }
    if trainings:
        result["trainings"] = trainings
    if config.verb in ("calibrate", "search"):
        result |= library_rows(config, phase_library(config, networks["unet"]))
    if task := getattr(config, "task", None):
        result["task"] = _task_rows(task)
    if data := getattr(config, "data", None):
        result["shapes"] = _shapes_row(data, networks)
        result["data"] = _data_rows(data)
    made = [*MADE_BY[config.verb], "result.json"]
    if getattr(config, "target_source", "cached") != "cached":
        made.remove("targets/*.safetensors")
    result["files"] = [str(config.folder / file) for file in made]
    return result


def plan(name: str, config: Any) -> dict[str, Any]:
    """What a verb would do; for a recipe, each of its phases."""
    if name != "recipe":
        return plan_phase(config)
    return {
        verb: plan_phase(read_config(verb, hand_on(config))[0], step=False)
        for verb in config.phases
    }
