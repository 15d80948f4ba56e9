"""Weights from diffusers' layout to that of the authors' single files: the way back of the loader.

The names are those of the CompVis and FLUX code; what diffusers reads is what this writes.
"""

from __future__ import annotations

import re

from torch import Tensor

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def _unet_place(name: str, layers_per_block: int, attends: set[int]) -> str:
    """`down_blocks.1.resnets.0.conv1.bias` -> `input_blocks.4.0.in_layers.2.bias`."""
    if name.startswith("mid_block"):
        part, number, rest = re.match(r"mid_block\.(\w+)\.(\d)\.(.*)", name).groups()
        return f"middle_block.{1 if part == 'attentions' else 2 * int(number)}.{rest}"
    side, level, part, number, rest = re.match(
        r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name
    ).groups()
    level, number, per_level = int(level), int(number), layers_per_block + 1
    if part == "downsamplers":
        return f"input_blocks.{per_level * (level + 1)}.0.op.{rest.removeprefix('conv.')}"
    if part == "upsamplers":
        slot = 2 if level in attends else 1
        return f"output_blocks.{per_level * level + layers_per_block}.{slot}.{rest}"
    block = "input_blocks" if side == "down" else "output_blocks"
    first = 1 if side == "down" else 0
    slot = 1 if part == "attentions" else 0
    return f"{block}.{first + per_level * level + number}.{slot}.{rest}"


def unet_to_original(weights: dict[str, Tensor], layers_per_block: int) -> dict[str, Tensor]:
    """A `UNet2DConditionModel`'s weights as Stable Diffusion's `model.diffusion_model.*`."""
    attends = {int(m[1]) for name in weights if (m := re.match(r"up_blocks\.(\d)\.attent", name))}
    original = {}
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        place = f"{_UNET_ENDS[module]}.{leaf}" if module in _UNET_ENDS else ""
        if not place:
            place = _unet_place(name, layers_per_block, attends)
            if ".resnets." in name:
                for ours, theirs in _UNET_RESNET.items():
                    place = place.replace(f".{ours}.", f".{theirs}.")
        original[f"model.diffusion_model.{place}"] = tensor
    return original


def vae_to_original(weights: dict[str, Tensor], num_levels: int, prefix: str) -> dict[str, Tensor]:
    """An `AutoencoderKL`'s weights as Stable Diffusion's `first_stage_model.*`, or FLUX's `*`."""
    original = {}
    for name, tensor in weights.items():
        place = re.sub(r"down_blocks\.(\d)\.resnets\.", r"down.\1.block.", name)
        place = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", place)
        place = re.sub(
            r"up_blocks\.(\d)\.(resnets|upsamplers\.0)",
            lambda m: (
                f"up.{num_levels - 1 - int(m[1])}." + ("block" if m[2] == "resnets" else "upsample")
            ),
            place,
        )
        place = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", place)
        place = place.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        if "mid_block.attentions.0" in place:
            place = place.replace("mid_block.attentions.0", "mid.attn_1")
            place = place.replace("group_norm", "norm").replace("to_out.0", "proj_out")
            place = re.sub(r"\.to_([qkv])\.", r".\1.", place)
        # their attention is made of 1x1 convolutions
        is_matrix = "attn_1" in place and tensor.ndim == 2
        original[prefix + place] = tensor[:, :, None, None] if is_matrix else tensor
    return original
