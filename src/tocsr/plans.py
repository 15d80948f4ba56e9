"""What a phase would do: shapes, parameters, GMACs, memory, steps and files, without weights.

Networks are built on the meta device, so a plan of SD 1.5 takes seconds and no memory.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from tocsr.config import OptimConfig
from tocsr.data.images import list_photos
from tocsr.errors import TocsrError
from tocsr.models.compact import num_params, rebuilt, surrogate_library
from tocsr.models.cost import autoencoder_costs, total, unet_cost
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.sr import with_condition
from tocsr.models.surrogates import SurrogateStage
from tocsr.models.vae import LATENT_STRIDE, widened
from tocsr.models.variants import TEACHER, find_variant
from tocsr.options import hand_on, read_config
from tocsr.runs import read_result

if TYPE_CHECKING:
    from tocsr.config import DataConfig, PhaseConfig
    from tocsr.models.compact import CompactUNet
    from tocsr.models.vae import Autoencoder

PIXELS = 512  # the size of image that GMACs are stated for
MADE_BY = {
    "pretrain": ["vae/", "vae_teacher/", "unet/"],
    "expand-vae": ["vae/"],
    "expand-unet": ["unet/", "vae/"],
    "calibrate": ["surrogates/<stage>/<variant>.safetensors"],
    "search": ["ledger.jsonl"],
    "select": ["unet/"],
    "finetune": ["unet/"],
    "train-sr": ["unet/"],
    "distill": ["targets/*.safetensors", "model/"],
}


def _networks(config: PhaseConfig) -> dict[str, CompactUNet | Autoencoder]:
    """The networks that a phase trains or reads, on the meta device, by its preset's files."""
    preset = config.preset
    with torch.device("meta"):
        if config.verb == "pretrain":
            return {
                "vae": base_vae(preset, "vae"),
                "vae_teacher": base_vae(preset, "vae_teacher"),
                "unet": base_unet(preset),
            }
        teacher = base_vae(preset, "vae_teacher")
        vae = widened(base_vae(preset, "vae"), teacher)
        if config.verb == "expand-vae":
            return {"vae": vae, "vae_teacher": teacher}
        channels = teacher.config.latent_channels
        unet = base_unet(preset, latent_channels=channels, adapter=getattr(config, "adapter", "v2"))
        if config.verb not in ("expand-unet", "calibrate", "search", "select"):
            selected = read_result(config.runs / "select")
            unet = rebuilt(unet, variants=selected["candidate"] if selected else None)
        if config.verb in ("train-sr", "distill"):
            unet = with_condition(unet)
        return {"unet": unet, "vae": vae}


def _network_row(network: Any) -> str:
    is_unet = hasattr(network, "stage_table")
    cost = unet_cost(network, PIXELS) if is_unet else total(autoencoder_costs(network, PIXELS))
    return f"{cost.params:,} parameters, {cost.macs_g:.1f} GMACs at {PIXELS} x {PIXELS}"


def _training_row(optim: OptimConfig, params: int) -> str:
    """Steps, samples, and bytes of weights, gradients, two moments and the average in fp32."""
    copies = 5 if optim.ema_decay else 4
    memory = copies * 4 * params / 2**30
    return (
        f"{optim.num_steps:,} steps of {optim.batch_size}, "
        f"{optim.num_steps * optim.batch_size:,} samples, {memory:.2f} GiB of "
        "weights, gradients, moments and average, activations not counted"
    )


def _shapes_row(data: DataConfig, networks: dict[str, Any]) -> str:
    """One sample's image and its latent in each autoencoder."""
    side = data.crop // LATENT_STRIDE
    channels = {n.config.latent_channels for key, n in networks.items() if key != "unet"}
    latents = " and ".join(f"{z} x {side} x {side}" for z in sorted(channels))
    return f"images 3 x {data.crop} x {data.crop}, latents {latents}"


def _data_rows(data: DataConfig) -> dict[str, str]:
    rows = {}
    for source in data.sources:
        try:
            rows[source.path] = f"{len(list_photos(source, data.fraction)):,} photos"
        except TocsrError as error:
            rows[source.path] = f"not there yet: {error.message}"
    return rows


def _surrogate_rows(config: Any, teacher: CompactUNet) -> tuple[dict[str, str], int]:
    """Per stage, the parameters of each variant in millions; and all of them summed."""
    rows, everything = {}, 0
    # search takes the library that calibrate made, so its plan reads calibrate's settings
    calibrate = (
        config if config.verb == "calibrate" else read_config("calibrate", hand_on(config))[0]
    )
    library = surrogate_library(teacher, calibrate.local_only)
    for stage in teacher.stage_table:
        cells = []
        for name in library[stage.name]:
            block = teacher.stages[stage.name]
            if name != TEACHER:
                with torch.device("meta"):
                    row = find_variant(stage.kind, name)
                    block = SurrogateStage(stage, row, teacher.facts)
                everything += num_params(block)
            cells.append(f"{name} {num_params(block) / 1e6:.3g}M")
        rows[stage.name] = ", ".join(cells)
    return rows, everything


def _trained_params(config: Any, networks: dict[str, Any], field: str, surrogates: int) -> int:
    if field != "optim":  # pretrain: one training per network
        return num_params(networks[field])
    if config.verb == "calibrate":
        return surrogates
    trained = {"expand-vae": ["vae"], "expand-unet": ["unet", "vae"]}.get(config.verb, ["unet"])
    return sum(num_params(networks[name]) for name in trained)


def plan_phase(config: PhaseConfig) -> dict[str, Any]:
    """What one phase would do."""
    networks = _networks(config)
    finished = read_result(config.folder) is not None
    result: dict[str, Any] = {
        "phase": config.verb,
        "state": "finished" if finished else "begun" if config.folder.exists() else "not begun",
        "networks": {name: _network_row(network) for name, network in networks.items()},
    }
    if config.verb in ("finetune", "train-sr", "distill") and not read_result(
        config.runs / "select"
    ):
        result["note"] = "nothing is selected yet: the U-Net is counted with the teacher's blocks"
    rows: dict[str, str] = {}
    surrogates = 0
    if config.verb in ("calibrate", "search"):
        rows, surrogates = _surrogate_rows(config, networks["unet"])
    trainings = {
        f.name: _training_row(value, _trained_params(config, networks, f.name, surrogates))
        for f in fields(config)
        if isinstance(value := getattr(config, f.name), OptimConfig)
    }
    if trainings:
        result["trainings"] = trainings
    if rows:
        result["library"] = rows
        result["candidates"] = f"{math.prod(row.count(',') + 1 for row in rows.values()):,}"
    if config.verb == "search":
        num = config.num_initial + len(config.tolerances) * config.num_iterations  # type: ignore[attr-defined]
        result["evaluations"] = num
    if data := getattr(config, "data", None):
        result["shapes"] = _shapes_row(data, networks)
        result["data"] = _data_rows(data)
    result["files"] = [str(config.folder / file) for file in (*MADE_BY[config.verb], "result.json")]
    return result


def plan(name: str, config: Any) -> dict[str, Any]:
    """What a verb would do; for a recipe, each of its phases."""
    if name != "recipe":
        return plan_phase(config)
    return {verb: plan_phase(read_config(verb, hand_on(config))[0]) for verb in config.phases}
