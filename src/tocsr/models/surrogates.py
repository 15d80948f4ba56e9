"""What stands at a stage: the teacher's own blocks, or a surrogate built from a variant (Eq. 6).

Both are called alike: `stage([features, *skips], time_embedding, context)` returns the list of the
stage's outputs. Legend: B batch, h w latent size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.models.attention import SelfAttention, TeacherAttention
from tocsr.models.layers import Recomputing, make_norm, zero_last_

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tocsr.models.stages import Stage, StageKind
    from tocsr.models.variants import Variant

BOTTLENECK_RATIO = 4


def is_local(module: nn.Module) -> bool:
    """Whether each output pixel depends on a bounded neighbourhood only."""
    if isinstance(module, SelfAttention) and module.window:
        return is_local(module.norm)
    if isinstance(module, nn.GroupNorm | Attention | BasicTransformerBlock):
        return False
    return all(is_local(part) for part in module.children())


def takes_context(module: nn.Module) -> bool:
    """Whether the condition c enters somewhere: only transformers attend to it."""
    return any(isinstance(part, BasicTransformerBlock) for part in module.modules())


class TeacherStage(nn.Module):
    """The identity row: the teacher's own diffusers blocks behind the stage's interface."""

    def __init__(self, kind: StageKind, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.kind = kind
        self.blocks = nn.ModuleList(blocks)

    def _call(self, block: Any, h: Tensor, temb: Tensor, context: Tensor | None, **kwargs: Any):  # type: ignore[no-untyped-def]
        if getattr(block, "has_cross_attention", False):
            kwargs["encoder_hidden_states"] = context
        return block(h, temb=temb, **kwargs)

    def forward(
        self, inputs: list[Tensor], time_embedding: Tensor, context: Tensor | None
    ) -> list[Tensor]:
        h, *skips = inputs
        up: Any
        if self.kind == "down":
            return list(self._call(self.blocks[0], h, time_embedding, context)[1])
        if self.kind == "bottleneck":
            down, mid, up = self.blocks
            below, made = self._call(down, h, time_embedding, context)
            skips = [h, *made]  # SD pushes the input of its last level as a skip too
            h = self._call(mid, below, time_embedding, context)
        else:
            (up,) = self.blocks
        taken = tuple(skips[-len(up.resnets) :])
        return [self._call(up, h, time_embedding, context, res_hidden_states_tuple=taken)]


def _conv(kind: str, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    """A 3x3 convolution of the kind a variant names, (B, in, h, w) -> (B, out, h/s, w/s)."""
    match kind:
        case "full":
            return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        case "bottleneck":
            middle = max(out_channels // BOTTLENECK_RATIO, 1)
            return nn.Sequential(
                nn.Conv2d(in_channels, middle, 1),
                nn.Conv2d(middle, middle, 3, stride, padding=1),
                nn.Conv2d(middle, out_channels, 1),
            )
        case "separable":
            return nn.Sequential(
                nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels),
                nn.Conv2d(in_channels, out_channels, 1),
            )
    raise ValueError(f"conv must be full, bottleneck or separable, got {kind}")


class ResidualBlock(nn.Module):
    """A time-conditioned residual block; with full convolutions, the teacher's `ResnetBlock2D`.

    Its parts carry the names of diffusers' block, so that weights of equal shape carry over. As
    constructed it is its shortcut alone.

    Shape:
        (B, in, h, w), time embedding (B, 4 c_0) -> (B, out, h, w).
    """

    def __init__(
        self, in_channels: int, out_channels: int, variant: Variant, base: Mapping[str, Any]
    ) -> None:
        super().__init__()
        norm, groups, eps = own_norm(variant, base), base["norm_num_groups"], base["norm_eps"]
        inner = max(out_channels // variant.inner, 1)
        self.norm1 = make_norm(norm, in_channels, groups, eps)
        self.conv1 = _conv(variant.conv, in_channels, inner)
        self.time_emb_proj = nn.Linear(4 * base["block_out_channels"][0], inner)
        self.norm2 = make_norm(norm, inner, groups, eps)
        self.conv2 = _conv(variant.conv, inner, out_channels)
        self.conv_shortcut = _shortcut(in_channels, out_channels)
        zero_last_(self.conv2)

    def forward(self, x: Tensor, time_embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(F.silu(time_embedding))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.conv_shortcut(x) + h


class Shortcut(nn.Module):
    """A residual block that does not compute: its shortcut alone."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_shortcut = _shortcut(in_channels, out_channels)

    def forward(self, x: Tensor, time_embedding: Tensor) -> Tensor:
        return self.conv_shortcut(x)


def _shortcut(in_channels: int, out_channels: int) -> nn.Module:
    same = in_channels == out_channels
    return nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)


def own_norm(variant: Variant, base: Mapping[str, Any]) -> str:
    """The normalisation of a variant's blocks: group or pixel."""
    return base["norm"] if variant.norm == "base" else variant.norm


def _attention(
    variant: Variant, channels: int, stride: int, base: Mapping[str, Any]
) -> nn.Module | None:
    """What a variant says follows a residual block, at a stride in latent pixels."""
    norm = own_norm(variant, base)
    match variant.attention:
        case "none":
            return None
        case "self":
            window = max(variant.reach // stride, 1) if variant.reach else 0
            return SelfAttention(channels, base, norm, window)
        case "teacher":
            return TeacherAttention(channels, base, norm)
    raise ValueError(f"attention must be none, self or teacher, got {variant.attention}")


class Resampler(nn.Module):
    """Halves or doubles the resolution, (B, in, h, w) -> (B, out, h/2, w/2) or (B, out, 2h, 2w)."""

    def __init__(self, in_channels: int, out_channels: int, kind: str, up: bool) -> None:
        super().__init__()
        self.up, self.pointwise = up, kind == "pointwise"
        if self.pointwise:
            self.conv: nn.Module = nn.Conv2d(in_channels, out_channels, 1)
        else:
            self.conv = _conv(kind, in_channels, out_channels, stride=1 if up else 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.pointwise:  # commutes with averaging and repeating: compute where pixels are few
            if self.up:
                return F.interpolate(self.conv(x), scale_factor=2.0, mode="nearest")
            return self.conv(F.avg_pool2d(x, 2))
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else x)


def computing_blocks(num_blocks: int, total: int) -> list[int]:
    """Which of a stage's residual blocks compute: the first, then spread evenly to the last.

    One of two or three keeps the first, two of three the outer ones, as BK-SDM does.
    """
    num = min(num_blocks, total)
    if num <= 1:
        return list(range(num))
    return [round(i * (total - 1) / (num - 1)) for i in range(num)]


class SurrogateStage(Recomputing):
    """A surrogate block B_i^k: residual blocks, attention and a resampler as its variant says.

    Shape:
        As the stage declares.
    """

    def __init__(self, stage: Stage, variant: Variant, base: Mapping[str, Any]) -> None:
        super().__init__()
        features, *skips = stage.inputs
        width, out = features.channels, stage.outputs[-1].channels
        bottleneck = stage.kind == "bottleneck"
        num_blocks = variant.num_blocks if bottleneck else stage.num_blocks
        computing = computing_blocks(variant.num_blocks, num_blocks)
        self.blocks = nn.ModuleList()
        self.attentions = nn.ModuleDict()
        for j in range(num_blocks):
            taken = skips[-1 - j].channels if skips else 0
            if j in computing:
                self.blocks.append(ResidualBlock(width + taken, out, variant, base))
                if attention := _attention(variant, out, features.stride, base):
                    self.attentions[str(j)] = attention
            else:
                self.blocks.append(Shortcut(width + taken, out))
            width = out
        self.makes_skips = stage.kind == "down"
        up = stage.kind != "down"
        self.sampler = Resampler(width, out, variant.sampler, up) if stage.resamples else None

    def forward(
        self, inputs: list[Tensor], time_embedding: Tensor, context: Tensor | None
    ) -> list[Tensor]:
        h, *skips = inputs
        made = []
        for j, block in enumerate(self.blocks):
            if skips:
                h = torch.cat([h, skips.pop()], dim=1)
            h = self.recomputed(block, h, time_embedding)
            if str(j) in self.attentions:
                h = self._attended(self.attentions[str(j)], h, context)
            if self.makes_skips:
                made.append(h)
        return [*made, self.sampler(h) if self.sampler else h]

    def _attended(self, attention: nn.Module, h: Tensor, context: Tensor | None) -> Tensor:
        if isinstance(attention, TeacherAttention):  # diffusers' transformer recomputes by itself
            return attention(h, context)
        return self.recomputed(attention, h, context)
