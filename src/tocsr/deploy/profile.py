"""profile: parameters and GMACs of encoder, U-Net, decoder and whole, always with the size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tocsr.models.cost import pipeline_costs, stage_params
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.sr import OneStepGenerator
from tocsr.models.vae import widened
from tocsr.runs import Report, silent

if TYPE_CHECKING:
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


def run(config: ProfileConfig, report: Report = silent) -> dict[str, Any]:
    """Costs of a finished model, or of a preset's networks before anything is trained."""
    size = f"{config.pixels} x {config.pixels}"
    if config.model is not None:
        model = OneStepGenerator.from_pretrained(config.model)
        costs = pipeline_costs(model.vae, model.unet, config.pixels)
        return {"size": size, "variants": model.unet.variants, "cost": _table(costs)}
    networks = _networks(config.preset)
    tables = {
        name: _table(pipeline_costs(vae, unet, config.pixels))
        for name, (vae, unet) in networks.items()
    }
    stages = {k: f"{v:,} parameters" for k, v in stage_params(networks["base"][1]).items()}
    return {"size": size, **tables, "base U-Net by stage": stages}
