"""What stands at a stage: the teacher's own blocks, or a surrogate built from a variant (Eq. 6).

Both are called alike: `stage([features, *skips], time_embedding, context)` returns the list of the
stage's outputs. Legend: B batch, h w latent size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tocsr.models.stages import Stage, StageKind
    from tocsr.models.variants import Variant

BOTTLENECK_RATIO = 4


class PixelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel, so that no pixel sees another one.

    Not in the paper: group normalisation sees the whole image, so a tile would differ from the
    image it is cut from.

    Shape:
        (B, channels, h, w) -> the same.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps).movedim(-1, 1)


def replace_group_norms_(module: nn.Module) -> None:
    """Puts a `PixelNorm` in the place of every `GroupNorm`, weights kept."""
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            norm = PixelNorm(child.num_channels, child.eps)
            norm.load_state_dict(child.state_dict(), assign=True)
            setattr(module, name, norm)
        else:
            replace_group_norms_(child)


def is_local(module: nn.Module) -> bool:
    """Whether each output pixel depends on a bounded neighbourhood only."""
    return not any(
        isinstance(part, nn.GroupNorm | Attention | BasicTransformerBlock)
        for part in module.modules()
    )


def takes_context(module: nn.Module) -> bool:
    """Whether the condition c enters somewhere: only transformers attend to it."""
    return any(isinstance(part, BasicTransformerBlock) for part in module.modules())


class Recomputing(nn.Module):
    """A module whose parts may be computed again in the backward pass instead of being kept.

    The attributes are those that diffusers' `enable_gradient_checkpointing` looks for and sets.
    """

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Tensor]

    def recomputed(self, part: nn.Module, *args: Any) -> Tensor:
        """`part(*args)`, of which only the arguments are kept where checkpointing is enabled."""
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(part, *args)
        return part(*args)


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


def _norm(kind: str, channels: int, groups: int, eps: float) -> nn.Module:
    return PixelNorm(channels, eps) if kind == "pixel" else nn.GroupNorm(groups, channels, eps)


class ResidualBlock(nn.Module):
    """A time-conditioned residual block; with full convolutions, the teacher's `ResnetBlock2D`.

    Its parts carry the names of diffusers' block, so that weights of equal shape carry over. What
    does not carry over starts as the shortcut alone.
    """

    def __init__(
        self, in_channels: int, out_channels: int, variant: Variant, base: Mapping[str, Any]
    ) -> None:
        super().__init__()
        norm = base["norm"] if variant.norm == "base" else variant.norm
        groups, eps = base["norm_num_groups"], base["norm_eps"]
        self.norm1 = _norm(norm, in_channels, groups, eps)
        self.conv1 = _conv(variant.conv, in_channels, out_channels)
        self.time_emb_proj = nn.Linear(4 * base["block_out_channels"][0], out_channels)
        self.norm2 = _norm(norm, out_channels, groups, eps)
        self.conv2 = _conv(variant.conv, out_channels, out_channels)
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


def zero_last_(module: nn.Module) -> None:
    """Sets the last convolution or linear layer in a module to zero."""
    last = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)


def _shortcut(in_channels: int, out_channels: int) -> nn.Module:
    same = in_channels == out_channels
    return nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)


class SelfAttention(nn.Module):
    """Self-attention over all pixels, added to its input and nothing at first, (B, c, h, w)."""

    def __init__(self, channels: int, base: Mapping[str, Any]) -> None:
        super().__init__()
        norm, groups, eps = base["norm"], base["norm_num_groups"], base["norm_eps"]
        self.norm = _norm(norm, channels, groups, eps)
        heads = base["attention_head_dim"]  # diffusers' name for the number of heads
        self.attention = Attention(channels, heads=heads, dim_head=channels // heads)
        zero_last_(self.attention.to_out)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, h w, c)
        return x + self.attention(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class TeacherAttention(nn.Module):
    """The teacher's own transformer: self-attention, cross-attention and feed-forward."""

    def __init__(self, channels: int, base: Mapping[str, Any]) -> None:
        super().__init__()
        heads = base["attention_head_dim"]
        self.transformer = Transformer2DModel(
            heads,
            channels // heads,
            in_channels=channels,
            norm_num_groups=base["norm_num_groups"],
            cross_attention_dim=base["cross_attention_dim"],
        )
        if base["norm"] == "pixel":
            replace_group_norms_(self.transformer)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.transformer(x, encoder_hidden_states=context, return_dict=False)[0]


def _attention(kind: str, channels: int, base: Mapping[str, Any]) -> nn.Module | None:
    match kind:
        case "none":
            return None
        case "self":
            return SelfAttention(channels, base)
        case "teacher":
            return TeacherAttention(channels, base)
    raise ValueError(f"attention must be none, self or teacher, got {kind}")


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
                if attention := _attention(variant.attention, out, base):
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


def init_from_teacher_(surrogate: SurrogateStage, teacher: Any) -> int:
    """Copies the teacher's weights wherever a part of the surrogate has their name and shape.

    The teacher is a `TeacherStage`; the residual blocks of a bottleneck start from its mid block.

    Returns:
        The number of parameters copied.
    """
    source: Any = teacher.blocks[1 if teacher.kind == "bottleneck" else 0]
    attentions = getattr(source, "attentions", None)
    last = teacher.blocks[-1]
    samplers = getattr(last, "downsamplers", None) or getattr(last, "upsamplers", None)
    pairs: list[tuple[nn.Module, nn.Module]] = list(
        zip(surrogate.blocks, source.resnets, strict=False)
    )
    if attentions is not None:
        pairs += [
            (part.transformer, attentions[int(j)])
            for j, part in surrogate.attentions.items()
            if isinstance(part, TeacherAttention)
        ]
    if surrogate.sampler is not None and samplers:
        pairs.append((surrogate.sampler, samplers[0]))
    return sum(load_matching_(part, source) for part, source in pairs)


@torch.no_grad()
def load_matching_(module: nn.Module, source: nn.Module) -> int:
    """Copies every parameter of `source` that `module` has by name and shape.

    Returns:
        The number of values copied.
    """
    own, given = dict(module.named_parameters()), dict(source.named_parameters())
    matching = [name for name, p in own.items() if name in given and given[name].shape == p.shape]
    for name in matching:
        own[name].copy_(given[name])
    return sum(own[name].numel() for name in matching)
