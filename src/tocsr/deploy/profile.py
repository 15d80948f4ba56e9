"""profile: parameters, GMACs, latency of encoder, U-Net, decoder and whole, always with the size.

Of a preset also the library: what each variant of each stage costs, and a few architectures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tocsr.deploy.figure import draw_architecture
from tocsr.deploy.latency import NUM_WARM_UP, cpu_name, engine_latencies, part_latencies
from tocsr.devices import pick_device
from tocsr.errors import TocsrError
from tocsr.files import whole_file
from tocsr.models.architectures import architecture_rows, cost_text, nearest, smallest
from tocsr.models.compact import rebuilt
from tocsr.models.cost import pipeline_costs, stage_params, uncounted_operators
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.library import library_costs, surrogate_library
from tocsr.models.sr import OneStepGenerator
from tocsr.models.vae import widened
from tocsr.models.variants import TEACHER
from tocsr.preset_files import preset_folder, read_yaml
from tocsr.runs import Report, silent

if TYPE_CHECKING:
    from pathlib import Path

    from tocsr.deploy.configs import ProfileConfig
    from tocsr.models.compact import CompactUNet
    from tocsr.models.cost import Cost
    from tocsr.models.vae import Autoencoder


def _table(costs: list[Cost]) -> dict[str, str]:
    return {c.part: f"{c.params:,} parameters, {c.macs_g:.1f} GMACs" for c in costs}


def _networks(preset: str) -> dict[str, tuple[Autoencoder, CompactUNet]]:
    """The preset's base and expanded networks on the meta device."""
    with torch.device("meta"):
        vae, teacher = base_vae(preset, "vae"), base_vae(preset, "vae_teacher")
        wide, channels = widened(vae, teacher), teacher.config.latent_channels
        return {
            "base": (vae, base_unet(preset)),
            "expanded": (wide, base_unet(preset, latent_channels=channels)),
            "expanded, conditioned": (
                wide,
                base_unet(preset, latent_channels=channels, condition_channels=channels),
            ),
        }


def _preset_says(preset: str, phase: str, option: str) -> Any:
    """What a preset sets for an option of a phase; None where it leaves the default."""
    path = preset_folder(preset) / f"{phase}.yaml"
    return read_yaml(path).get(option) if path.exists() else None


def _draw(config: ProfileConfig, file: Path, teacher: CompactUNet, choice: dict[str, str]) -> None:
    """Draws an architecture into a file."""
    library = {stage: [TEACHER, name] for stage, name in choice.items()}
    title = f"{config.model or config.preset}, {config.pixels} x {config.pixels}"
    picture = draw_architecture(library_costs(teacher, library, config.pixels), choice, title)
    with whole_file(file) as part:
        picture.save(part, file.suffix[1:], lossless=True)


def _of_model(config: ProfileConfig, folder: Path) -> dict[str, Any]:
    """Costs of a finished model."""
    model = OneStepGenerator.from_pretrained(folder)
    variants = model.unet.variants
    table = _table(pipeline_costs(model.vae, model.unet, config.pixels))
    timed = _timed(config, folder, model) if config.num_runs else {}
    model = model.to("meta")
    left_out = uncounted_operators(lambda: pipeline_costs(model.vae, model.unet, config.pixels))
    if config.draw is not None:
        with torch.device("meta"):
            teacher = rebuilt(model.unet, variants=None)
        _draw(config, config.draw, teacher, variants)
    return {"variants": variants, "cost": table, "not counted": left_out, **timed}


def _timed(config: ProfileConfig, folder: Path, model: OneStepGenerator) -> dict[str, Any]:
    """Latency and peak memory of a finished model on this machine."""
    pick_device("cpu", config.num_threads)
    pixels, num_runs = config.pixels, config.num_runs
    rows = part_latencies(model, pixels, num_runs)
    rows |= engine_latencies(folder, model, pixels, num_runs, config.num_threads)
    how = {
        "runs": f"{num_runs} of each, after {NUM_WARM_UP} that warm up, batch 1",
        "machine": f"{cpu_name()}, {config.num_threads or torch.get_num_threads()} threads",
        "peak": "of this process, PyTorch and the weights included",
    }
    return {"latency": {**how, **{part: str(row) for part, row in rows.items()}}}


def _of_library(config: ProfileConfig, teacher: CompactUNet) -> dict[str, Any]:
    """What the blocks of a preset's library cost, and a few of its architectures."""
    local_only = bool(_preset_says(config.preset, "calibrate", "local_only"))
    budget = config.budget or _preset_says(config.preset, "select", "budget")
    costs = library_costs(teacher, surrogate_library(teacher, local_only), config.pixels)
    if config.draw is not None:
        chosen = nearest(costs, budget) if budget else None
        if chosen is None:
            raise TocsrError(
                f"draw needs an architecture within the budget, and none has {budget} parameters "
                f"or fewer: the smallest has {smallest(costs).cost.params}",
                "name a larger --budget",
            )
        _draw(config, config.draw, teacher, chosen.choice)
    library = {
        stage: {name: cost_text(cost) for name, cost in rows.items()}
        for stage, rows in costs.stages.items()
    }
    return {
        "library of the expanded U-Net": {**library, "rest": cost_text(costs.rest)},
        "architectures": architecture_rows(costs, budget),
    }


def run(config: ProfileConfig, report: Report = silent) -> dict[str, Any]:
    """Costs of a finished model, or of a preset's networks before anything is trained."""
    size = {"size": f"{config.pixels} x {config.pixels}"}
    drawn = {"drawn": str(config.draw)} if config.draw else {}
    if config.model is not None:
        return {**size, **_of_model(config, config.model), **drawn}
    networks = _networks(config.preset)
    tables = {
        name: _table(pipeline_costs(vae, unet, config.pixels))
        for name, (vae, unet) in networks.items()
    }
    stages = {k: f"{v:,} parameters" for k, v in stage_params(networks["base"][1]).items()}
    library = _of_library(config, networks["expanded"][1])
    return {**size, **tables, "base U-Net by stage": stages, **library, **drawn}
