"""The U-Net of every phase: SD's, stage by stage, each stage the teacher's block or a surrogate.

Swapping blocks inside a stock `UNet2DConditionModel` cannot be saved: `from_pretrained` would build
another network without a word. So this class registers what it is made of.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from diffusers import ConfigMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from tocsr.models.base import AlignedModel
from tocsr.models.layers import load_matching_, replace_group_norms_
from tocsr.models.stages import Stage, unet_stages
from tocsr.models.surrogates import SurrogateStage, TeacherStage, is_local, takes_context
from tocsr.models.unet import first_and_last, latent_adapter
from tocsr.models.variants import TEACHER, find_variant

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1


class CompactUNet(AlignedModel, ConfigMixin):
    """A denoising U-Net assembled from one block per stage (Eq. 9).

    With every stage the teacher's own block it is the base U-Net, bit for bit.

    Args:
        base: Configuration of the base `UNet2DConditionModel`.
        variants: Stage name -> variant name, the decision vector; missing stages are `teacher`.
        latent_channels: Z, channels of z_t and of the prediction; None is the base's.
        condition_channels: Channels of the latent that z_t is joined to (Eq. 20), 0 for none.
        adapter: How the base's first and last convolution were widened to Z: v1, v2 or v3.
        norm: Normalisation of the base: `group`, as in SD, or `pixel`, which keeps it local.
        prediction: What the network predicts: `noise`, `velocity` or `clean`.
        num_context_tokens: Length of the built-in condition c (an empty prompt's embedding, or
            learned); 0 when the caller always gives one.
        schema: Version of this configuration.

    Shape:
        sample (B, Z + condition_channels, h, w), latents of about unit variance, h and w
        multiples of `size_multiple`; timestep (B,) or a number in 0..T-1; result (B, Z, h, w).
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        *,
        base: dict[str, Any],
        variants: dict[str, str] | None = None,
        latent_channels: int | None = None,
        condition_channels: int = 0,
        adapter: str = "v2",
        norm: str = "group",
        prediction: str = "noise",
        num_context_tokens: int = 77,
        schema: int = SCHEMA,
    ) -> None:
        super().__init__()
        if schema != SCHEMA:
            raise ValueError(f"config schema must be {SCHEMA}, got {schema}: update tocsr")
        unet = UNet2DConditionModel.from_config(base)
        if norm == "pixel":
            replace_group_norms_(unet)
        self.facts = {**unet.config, "norm": norm}
        self.stage_table: tuple[Stage, ...] = unet_stages(unet.config)
        self.latent_channels = latent_channels or unet.config.in_channels
        self.conv_in, self.conv_out = latent_adapter(
            unet, self.latent_channels, condition_channels, adapter
        )
        self.time_proj, self.time_embedding = unet.time_proj, unet.time_embedding
        self.conv_norm_out, self.conv_act = unet.conv_norm_out, unet.conv_act
        chosen = {stage.name: TEACHER for stage in self.stage_table} | (variants or {})
        self.stages = nn.ModuleDict(
            {stage.name: self._build(stage, chosen[stage.name], unet) for stage in self.stage_table}
        )
        self.context = None
        if num_context_tokens and takes_context(self.stages):
            width = unet.config.cross_attention_dim
            self.context = nn.Parameter(torch.zeros(1, num_context_tokens, width))

    def _build(self, stage: Stage, variant: str, unet: UNet2DConditionModel) -> nn.Module:
        if variant == TEACHER:
            return TeacherStage(stage.kind, _teacher_blocks(unet, stage, self.stage_table))
        return SurrogateStage(stage, find_variant(stage.kind, variant), self.facts)

    @property
    def size_multiple(self) -> int:
        """What the latent's height and width must be multiples of, and where a tile may begin.

        A network of this many strides, and of windows as large as this, is the same from there on.
        """
        strides = [port.stride for stage in self.stage_table for port in stage.outputs]
        rows = [
            find_variant(stage.kind, self.variants[stage.name])
            for stage in self.stage_table
            if self.variants[stage.name] != TEACHER
        ]
        return math.lcm(*strides, *(row.reach for row in rows if row.reach))

    @property
    def variants(self) -> dict[str, str]:
        """The decision vector a, stage name -> variant name, every stage named (Eq. 9)."""
        given = self.config.variants or {}
        return {stage.name: given.get(stage.name, TEACHER) for stage in self.stage_table}

    @property
    def is_local(self) -> bool:
        """Whether the network sees a bounded neighbourhood, so that tiles join without a trace."""
        return is_local(self)

    def embed_time(self, timestep: Tensor | float, sample: Tensor) -> Tensor:
        """The time embedding (B, 4 c_0) of timesteps (B,) or of one number."""
        t = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        return self.time_embedding(self.time_proj(t).to(sample.dtype))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor | None = None,
        record: dict[str, Tensor] | None = None,
    ) -> Tensor:
        """The noise prediction.

        Args:
            sample: z_t, joined to the condition's latent where there is one.
            timestep: (B,) or a number.
            encoder_hidden_states: c (B, tokens, width); None takes the built-in one.
            record: Receives every tensor between stages under its port's name, and the arguments
                `time_embedding` and `context` that each stage was called with.
        """
        context = encoder_hidden_states
        if context is None and self.context is not None:
            context = self.context.to(sample.dtype).expand(len(sample), -1, -1)
        temb = self.embed_time(timestep, sample)
        values = {"conv_in": self.conv_in(sample)}
        for stage in self.stage_table:
            inputs = [values[port.name] for port in stage.inputs]
            outputs = self.stages[stage.name](inputs, temb, context)
            values.update(zip((port.name for port in stage.outputs), outputs, strict=True))
        if record is not None:
            record.update(values, time_embedding=temb)
            if context is not None:
                record["context"] = context
        h = values[self.stage_table[-1].outputs[-1].name]
        return self.conv_out(self.conv_act(self.conv_norm_out(h)))


def _teacher_blocks(
    unet: UNet2DConditionModel, stage: Stage, table: tuple[Stage, ...]
) -> list[nn.Module]:
    """The diffusers blocks that make up a stage."""
    depth = len(unet.down_blocks) - 1
    index = [s.name for s in table].index(stage.name)
    match stage.kind:
        case "down":
            return [unet.down_blocks[index]]
        case "bottleneck":
            return [unet.down_blocks[depth], unet.mid_block, unet.up_blocks[0]]
        case "up":
            return [unet.up_blocks[index - depth]]


def _settings(unet: CompactUNet) -> dict[str, Any]:
    return {key: value for key, value in unet.config.items() if not key.startswith("_")}


def rebuilt(unet: CompactUNet, **changes: Any) -> CompactUNet:
    """The same network with other settings; every weight that still fits is copied bitwise."""
    new = CompactUNet(**{**_settings(unet), **changes})
    load_matching_(new, unet)
    # v1 and v3 keep the base's own ends, under other names
    load_matching_(first_and_last(new.conv_in)[1], first_and_last(unet.conv_in)[1])
    load_matching_(first_and_last(new.conv_out)[0], first_and_last(unet.conv_out)[0])
    return new


def from_base_unet(unet: UNet2DConditionModel, **settings: Any) -> CompactUNet:
    """The staged form of a stock diffusers U-Net, equal to it bit for bit.

    Args:
        unet: The stock U-Net.
        settings: Other arguments of the `CompactUNet`.
    """
    base = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    staged = CompactUNet(base=base, **settings)
    for stage in staged.stage_table:
        blocks = _teacher_blocks(unet, stage, staged.stage_table)
        staged.stages[stage.name].blocks.load_state_dict(nn.ModuleList(blocks).state_dict())
    load_matching_(staged, unet)
    return staged


def assembled(
    teacher: CompactUNet, choice: Mapping[str, str], surrogates: Mapping[str, nn.Module]
) -> CompactUNet:
    """U_a: the teacher with stage i replaced by B_i^(a_i), without any training (Eq. 9).

    The result shares its modules with the teacher and the surrogates: save it before it is trained.

    Args:
        teacher: The U-Net with its own block at every stage.
        choice: Decision vector a, stage name -> variant name; missing stages are the teacher's.
        surrogates: `stage/variant` -> calibrated block.
    """
    with torch.device("meta"):
        unet = CompactUNet(**{**_settings(teacher), "variants": dict(choice)})
    for name, part in teacher.named_children():
        if name != "stages":
            setattr(unet, name, part)
    unet.context = teacher.context if unet.context is not None else None
    for stage, variant in unet.variants.items():
        own = teacher.stages[stage]
        unet.stages[stage] = own if variant == TEACHER else surrogates[f"{stage}/{variant}"]
    return unet


def num_params(module: nn.Module) -> int:
    """The number of parameters of a module; P(a) of Eq. 10 sums it over the stages."""
    return sum(p.numel() for p in module.parameters())
