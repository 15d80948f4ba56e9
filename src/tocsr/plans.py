"""What a phase would do: shapes, parameters, GMACs, memory, steps and files, without weights.

Networks are built on the meta device, so a plan of SD 1.5 takes seconds and no memory.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from tocsr.config import OptimConfig
from tocsr.data.images import Batch
from tocsr.data.sources import list_photos
from tocsr.diffusion import NoiseSchedule
from tocsr.errors import TocsrError
from tocsr.models.compact import num_params, rebuilt, surrogate_library
from tocsr.models.cost import Cost, autoencoder_costs, count_macs, total, unet_cost
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.memory import training_memory
from tocsr.models.sr import with_condition
from tocsr.models.surrogates import SurrogateStage
from tocsr.models.vae import (
    LATENT_STRIDE,
    LatentMap,
    reconstruct,
    reconstruct_with_loss,
    reconstruction_loss,
    widened,
)
from tocsr.models.variants import TEACHER, find_variant
from tocsr.options import hand_on, read_config
from tocsr.runs import read_result
from tocsr.train.distill import student_loss
from tocsr.train.expand_unet import joint_loss
from tocsr.train.pretrain import latent_denoising_loss
from tocsr.train.teacher_latents import TeacherLatents
from tocsr.train.train_sr import sr_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from tocsr.config import DataConfig, PhaseConfig
    from tocsr.models.compact import CompactUNet

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


def _networks(config: PhaseConfig) -> dict[str, Any]:
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
        channels = _student_channels(config)
        vaes: dict[str, Any] = {"vae": widened(base_vae(preset, "vae"), teacher, channels)}
        if config.verb in ("expand-vae", "expand-unet"):
            vaes["vae_teacher"] = teacher
            if channels != teacher.config.latent_channels:
                vaes["latent_map"] = LatentMap(channels, teacher.config.latent_channels)
        if config.verb == "expand-vae":
            return vaes
        unet = base_unet(preset, latent_channels=channels, adapter=getattr(config, "adapter", "v2"))
        if config.verb not in ("expand-unet", "calibrate", "search", "select"):
            selected = read_result(config.runs / "select")
            unet = rebuilt(unet, variants=selected["candidate"] if selected else None)
        if config.verb in ("train-sr", "distill"):
            unet = with_condition(unet)
        return {"unet": unet, **vaes}


def _student_channels(config: Any) -> int:
    """Z of the expanded autoencoder, which expand-vae's settings say."""
    own = config.verb == "expand-vae"
    settings = config if own else read_config("expand-vae", hand_on(config))[0]
    return settings.latent_channels


def _network_cost(name: str, network: Any) -> Cost:
    if isinstance(network, LatentMap):
        side = PIXELS // LATENT_STRIDE
        latent = torch.empty(1, network.config.student_channels, side, side, device="meta")
        return Cost(name, num_params(network), count_macs(lambda: network(latent)))
    if hasattr(network, "stage_table"):
        return unet_cost(network, PIXELS)
    return total(autoencoder_costs(network, PIXELS))


def _network_rows(networks: Mapping[str, Any]) -> dict[str, str]:
    """Parameters and GMACs of each network, and of all of them."""
    costs = {name: _network_cost(name, network) for name, network in networks.items()}
    return {
        name: f"{cost.params:,} parameters, {cost.macs_g:.1f} GMACs at {PIXELS} x {PIXELS}"
        for name, cost in (costs | {"in sum": total(costs.values())}).items()
    }


def _trained(config: Any, training: str, networks: Mapping[str, Any]) -> list[str]:
    """The networks that a phase's training changes."""
    if training != "optim":  # pretrain: one training per network
        return [training]
    frozen = "vae_teacher" if config.verb in ("expand-vae", "expand-unet") else "vae"
    return [name for name in networks if name != frozen]


def _loss(config: Any, training: str, networks: Mapping[str, Any], images: Tensor) -> Tensor:
    """What a training goes down, of a micro-batch of images: that of the phase itself."""
    batch, schedule = Batch(images, list(range(len(images))), []), NoiseSchedule()
    unet: Any
    vae: Any
    unet, vae, latent_map = (networks.get(name) for name in ("unet", "vae", "latent_map"))
    match config.verb, training:
        case ("pretrain", "unet") | ("finetune", _):
            return latent_denoising_loss(unet, vae, schedule, batch, config.seed)
        case "pretrain", name:
            restored = reconstruct(networks[name], images)[1]
            return reconstruction_loss(restored, images, config.rec_norm)
        case "expand-vae", _:
            target = TeacherLatents(networks["vae_teacher"])(batch)
            weight, norm = config.rec_weight, config.rec_norm
            return reconstruct_with_loss(vae, latent_map, target, images, weight, norm)[1]["loss"]
        case "expand-unet", _:
            target = TeacherLatents(networks["vae_teacher"])(batch)
            return joint_loss(config, unet, vae, latent_map, target, schedule, batch)["loss"]
        case "train-sr", _:
            return sr_loss(config, unet, vae, schedule, batch)
        case "distill", _:
            side = images.shape[-1] // LATENT_STRIDE
            targets = torch.empty(len(images), unet.latent_channels, side, side)
            return student_loss(config, unet, vae, schedule, targets, batch)["loss"]
    raise ValueError(f"{config.verb} has no training {training}")


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


def _gib_by_part(parts: Mapping[str, int]) -> str:
    cells = ", ".join(f"{name} {_gib(num_bytes)}" for name, num_bytes in parts.items())
    return f"{_gib(sum(parts.values()))} ({cells})"


def _memory_rows(config: Any, training: str, networks: Mapping[str, Any]) -> dict[str, str]:
    """What the step of a training takes, by part, on one process."""
    optim: OptimConfig = getattr(config, training)
    trained = _trained(config, training, networks)
    called = [*networks]
    if config.verb == "pretrain":  # one network after the other, the U-Net on the vae's latents
        called = ["unet", "vae"] if training == "unet" else [training]
    memory = training_memory(
        {name: networks[name] for name in called},
        trained,
        lambda nets, images: _loss(config, training, nets, images),
        optim,
        config.data.crop,
    )
    size, crop = optim.batch_size // optim.accumulation, config.data.crop
    again = "on" if optim.gradient_checkpointing else "off"
    rows = {
        "micro-batch": f"{size} x 3 x {crop} x {crop}, {optim.precision}, "
        f"gradient checkpointing {again}",
        "weights": _gib_by_part(memory.weights),
        "gradients": _gib(memory.gradients),
        "moments": _gib(memory.moments),
        "average": _gib(memory.average),
        "images": _gib(memory.images),
        "activations kept": _gib_by_part(memory.step.kept),
    }
    if memory.step.passing:
        rows["without gradients"] = _gib_by_part(memory.step.passing)
    peak = f"{_gib(memory.peak)}, the buffers of kernels and allocator not counted"
    return {**rows, "most at once": peak}


def _training_rows(
    config: Any, training: str, networks: Mapping[str, Any], surrogates: int, step: bool
) -> dict[str, str]:
    """Steps, samples and memory; where no step is counted, four copies of the weights or five."""
    optim: OptimConfig = getattr(config, training)
    samples = optim.num_steps * optim.batch_size
    rows = {"steps": f"{optim.num_steps:,} of {optim.batch_size}, {samples:,} samples"}
    if step and config.verb != "calibrate":
        return rows | _memory_rows(config, training, networks)
    params = surrogates or sum(
        num_params(networks[name]) for name in _trained(config, training, networks)
    )
    copies = 5 if optim.ema_decay else 4
    return rows | {
        "memory": f"{_gib(copies * 4 * params)} of weights, gradients, moments and average, "
        "activations not counted"
    }


def _shapes_row(data: DataConfig, networks: dict[str, Any]) -> str:
    """One sample's image and its latent in each autoencoder."""
    side = data.crop // LATENT_STRIDE
    channels = {n.config.latent_channels for key, n in networks.items() if key.startswith("vae")}
    latents = " and ".join(f"{z} x {side} x {side}" for z in sorted(channels))
    return f"images 3 x {data.crop} x {data.crop}, latents {latents}"


def _data_rows(data: DataConfig) -> dict[str, str]:
    """Each source's photos after its limit, and its share of the samples."""
    rows = {}
    weights = sum(source.weight for source in data.sources)
    for source in data.sources:
        limit = f", limit {source.limit:,}" if source.limit else ""
        try:
            photos = f"{len(list_photos(source, data.fraction)):,} photos"
        except TocsrError as error:
            photos = f"not there yet: {error.message}"
        rows[source.path] = f"{photos} ({source.weight / weights:.1%} of the samples{limit})"
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


def plan_phase(config: PhaseConfig, *, step: bool = True) -> dict[str, Any]:
    """What one phase would do.

    Args:
        config: The phase.
        step: Whether to count what an optimiser step takes, which is most of a plan's seconds.
    """
    networks = _networks(config)
    finished = read_result(config.folder) is not None
    result: dict[str, Any] = {
        "phase": config.verb,
        "state": "finished" if finished else "begun" if config.folder.exists() else "not begun",
        "networks": _network_rows(networks),
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
        f.name: _training_rows(config, f.name, networks, surrogates, step)
        for f in fields(config)
        if isinstance(getattr(config, f.name), OptimConfig)
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
    return {
        verb: plan_phase(read_config(verb, hand_on(config))[0], step=False)
        for verb in config.phases
    }
