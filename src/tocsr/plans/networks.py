"""The networks of a phase on the meta device, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tocsr.models.compact import num_params, rebuilt
from tocsr.models.cost import Cost, autoencoder_costs, count_macs, total, unet_cost
from tocsr.models.folders import base_unet, base_vae
from tocsr.models.sr import OneStepGenerator
from tocsr.models.sr_starts import with_condition
from tocsr.models.vae import LATENT_STRIDE, LatentMap, widened, with_output_layers
from tocsr.options import hand_on, read_config
from tocsr.runs import read_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tocsr.config import PhaseConfig

PIXELS = 512  # the size of image that GMACs are stated for


def phase_networks(config: PhaseConfig) -> dict[str, Any]:
    """The networks that a phase trains or reads, on the meta device, by its preset's files."""
    preset = config.preset
    if folder := getattr(config, "start_folder", None):
        start = OneStepGenerator.from_pretrained(folder).float().to("meta")
        return {"unet": start.unet, "vae": _decoding(config, start.vae)}
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
        return {"unet": unet, **vaes, "vae": _decoding(config, vaes["vae"])}


def _decoding(config: PhaseConfig, vae: Any) -> Any:
    """The autoencoder with the layers that distill gives its decoder."""
    width = getattr(config, "output_width", 0)
    with torch.device("meta"):
        return with_output_layers(vae, width) if width else vae


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


def network_rows(networks: Mapping[str, Any]) -> dict[str, str]:
    """Parameters and GMACs of each network, and of all of them."""
    costs = {name: _network_cost(name, network) for name, network in networks.items()}
    return {
        name: f"{cost.params:,} parameters, {cost.macs_g:.1f} GMACs at {PIXELS} x {PIXELS}"
        for name, cost in (costs | {"in sum": total(costs.values())}).items()
    }
