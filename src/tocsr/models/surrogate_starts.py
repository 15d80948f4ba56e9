"""Where a surrogate starts: from the teacher's weights, whole, sliced, merged or at lower rank.

Not in the paper, which does not say. Nothing here looks at data: each part comes by a closed form
from the weights of the part that it stands for. `benchmarks/surrogate_starts.py` measures what that
is worth against a start as constructed.

- a full 3x3 convolution, a norm, a shortcut, a transformer: copied;
- fewer channels inside a residual block: the most important ones, sliced;
- a bottleneck convolution: low rank in its channels; a separable one: rank 1 per input channel;
- a 1x1 convolution on averaged or repeated pixels: the taps of the 3x3 one summed;
- the sampler of a bottleneck: the shortcuts of what is left out before it multiplied in;
- self-attention: the teacher's, the projections around it multiplied in.

What has no counterpart stays as constructed.

Legend: O I output and input channels of a convolution, c channels of a stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tocsr.models.attention import SelfAttention, TeacherAttention
from tocsr.models.factors import low_rank, separated
from tocsr.models.layers import load_matching_
from tocsr.models.surrogates import Resampler, ResidualBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tocsr.models.surrogates import SurrogateStage


def counterparts(surrogate: SurrogateStage, teacher: Any) -> Iterator[tuple[nn.Module, Any]]:
    """Each part of a surrogate with the teacher's part that it stands for.

    A residual block stands for the teacher's of the same place, whether it computes or not. Those
    of a bottleneck stand for the middle's; where the width changes there, the first stands for the
    first of the level below. Attention stands for that which follows the same residual block.

    Args:
        surrogate: Of the stage.
        teacher: The stage's `TeacherStage`.
    """
    source = teacher.blocks[1 if teacher.kind == "bottleneck" else 0]
    for j, (block, resnet) in enumerate(zip(surrogate.blocks, source.resnets, strict=False)):
        widens = teacher.kind == "bottleneck" and j == 0
        if widens and block.get_parameter("norm1.weight").numel() != resnet.in_channels:
            yield block, teacher.blocks[0].resnets[0]
        else:
            yield block, resnet
    attentions = list(getattr(source, "attentions", None) or [])
    for place, part in surrogate.attentions.items():
        if int(place) < len(attentions):
            yield part, attentions[int(place)]
    last = teacher.blocks[-1]
    samplers = getattr(last, "downsamplers", None) or getattr(last, "upsamplers", None)
    if surrogate.sampler is not None and samplers:
        yield surrogate.sampler, samplers[0]


@torch.no_grad()
def init_from_teacher_(surrogate: SurrogateStage, teacher: Any) -> int:
    """Starts every part of a surrogate from the teacher's part that it stands for.

    Args:
        surrogate: As constructed.
        teacher: The stage's `TeacherStage`.

    Returns:
        The number of parameters that were set.
    """
    count = 0
    for part, source in counterparts(surrogate, teacher):
        match part:
            case ResidualBlock():
                count += start_residual_(part, source)
            case SelfAttention():
                count += start_self_attention_(part, source)
            case TeacherAttention():
                count += load_matching_(part.transformer, source)
            case Resampler():
                count += start_conv_(part.conv, *_sampler_weights(teacher, source))
            case _:  # a block that does not compute: its shortcut
                count += load_matching_(part, source)
    return count


def start_conv_(conv: nn.Module, weight: Tensor, bias: Tensor) -> int:
    """Makes what stands for a 3x3 convolution the nearest to it; nothing where widths differ.

    Args:
        conv: A convolution, 3x3 or 1x1, or the two or three of a separable or bottleneck one.
        weight: (O, I, 3, 3) of the teacher's.
        bias: (O,).

    Returns:
        The number of parameters set.
    """
    parts: list[Any] = list(conv) if isinstance(conv, nn.Sequential) else [conv]
    if (parts[-1].out_channels, parts[0].in_channels) != tuple(weight.shape[:2]):
        return 0
    exact = weight.to("cpu", torch.float64)  # not every device has float64
    given: tuple[Tensor, ...] = (exact,)
    if len(parts) == 3:
        given = low_rank(exact, parts[1].in_channels)
    elif len(parts) == 2:
        given = separated(exact)
    elif parts[0].kernel_size == (1, 1):
        given = (exact.sum((2, 3)),)
    for part, values in zip(parts, given, strict=True):
        _set_corner_(part.weight, values if values.dim() == 4 else values[:, :, None, None])
        nn.init.zeros_(part.bias)
    parts[-1].bias.copy_(bias)
    return sum(p.numel() for p in conv.parameters())


def _set_corner_(weight: Tensor, values: Tensor) -> None:
    """Sets the first channels of both modes, as many as there are values.

    Where a bottleneck has more channels than its convolution has rank, the others get zeros from
    the middle and stay as constructed elsewhere, so that training can make use of them.
    """
    if weight.shape[2:] == (3, 3):
        weight.zero_()
    weight[: values.shape[0], : values.shape[1]] = values.to(weight)


def important_channels(block: Any, groups: int, num_kept: int) -> Tensor:
    """Which channels between the convolutions of a teacher's residual block to keep, ascending.

    A channel counts for what comes into it, times its norm's scale, times what goes out of it. The
    norm's groups keep equally many each, so that their statistics stay those of the same channels.

    Args:
        block: diffusers' `ResnetBlock2D`.
        groups: Of the norm between the convolutions that keep the channels; 1 for a norm per pixel.
        num_kept: A multiple of it.
    """
    worth = block.conv1.weight.flatten(1).norm(dim=1) * block.norm2.weight.abs()
    worth = worth * block.conv2.weight.transpose(0, 1).flatten(1).norm(dim=1)
    by_group = worth.view(groups, -1)
    best = by_group.topk(num_kept // groups, dim=1).indices
    first = by_group.shape[1] * torch.arange(groups, device=best.device)
    return (best + first[:, None]).flatten().sort().values


def start_residual_(block: ResidualBlock, source: Any) -> int:
    """Starts a residual block as its counterpart, a `ResnetBlock2D` of diffusers.

    Returns:
        The number of parameters set.
    """
    count = load_matching_(block.norm1, source.norm1)
    if source.conv_shortcut is not None:
        count += load_matching_(block.conv_shortcut, source.conv_shortcut)
    groups = getattr(block.norm2, "num_groups", 1)
    keep = important_channels(source, groups, block.time_emb_proj.out_features)
    for name in ("time_emb_proj", "norm2"):
        for key, parameter in getattr(block, name).named_parameters():
            parameter.copy_(getattr(source, name).get_parameter(key)[keep])
            count += parameter.numel()
    count += start_conv_(block.conv1, source.conv1.weight[keep], source.conv1.bias[keep])
    return count + start_conv_(block.conv2, source.conv2.weight[:, keep], source.conv2.bias)


def _passed_on(teacher: Any) -> tuple[Tensor, Tensor] | None:
    """What a bottleneck's shortcuts alone make of its input: a matrix (c, c) and a bias (c,).

    Every skip that its level up takes is then the input itself. None where the width changes.
    """
    down, _, up = teacher.blocks
    if any(resnet.conv_shortcut is not None for resnet in down.resnets):
        return None
    matrix = torch.eye(down.resnets[0].in_channels, dtype=torch.float64)
    bias = torch.zeros(len(matrix), dtype=torch.float64)
    for resnet in up.resnets:
        weight = resnet.conv_shortcut.weight.flatten(1).to(matrix)
        below, skip = weight.split(len(matrix), dim=1)
        matrix = below @ matrix + skip
        bias = below @ bias + resnet.conv_shortcut.bias.to(matrix)
    return matrix, bias


def _sampler_weights(teacher: Any, sampler: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a stage's 3x3 sampler, behind what a bottleneck leaves out before it."""
    weight, bias = sampler.conv.weight, sampler.conv.bias
    passed = _passed_on(teacher) if teacher.kind == "bottleneck" else None
    if passed is None:
        return weight, bias
    matrix, constant = passed
    exact = weight.to(matrix)
    merged = torch.einsum("omyx,mi->oiyx", exact, matrix)
    return merged, bias.to(matrix) + exact.sum((2, 3)) @ constant


def start_self_attention_(part: SelfAttention, source: Any) -> int:
    """Starts self-attention as the first attention of a teacher's transformer.

    There, tokens go through a norm, a projection P, a layer norm, the attention, and a projection
    out. The norm is copied, the projection out is multiplied into the attention's own, and P into
    query, key and value. The layer norm between them divides a token by its spread, which is taken
    as that of a token whose normalised features are independent; so it is linear. The constant that
    it adds leaves the keys' scores alone and reaches the output through the value as a bias; for
    the query, which has no bias, it is lost. Cross-attention, feed-forward and the path around the
    attention are left out.

    Args:
        part: Of the surrogate.
        source: diffusers' `Transformer2DModel`.

    Returns:
        The number of parameters set.
    """
    block, own = source.transformer_blocks[0], part.attention
    load_matching_(part.norm, source.norm)
    project, leave = (layer.weight.flatten(1) for layer in (source.proj_in, source.proj_out))
    centred, bias = project - project.mean(0), source.proj_in.bias - source.proj_in.bias.mean()
    power = (centred * source.norm.weight).square().sum()
    power = power + (centred @ source.norm.bias + bias).square().sum()
    scale = block.norm1.weight / (power / (len(project) - 1) + block.norm1.eps).sqrt()
    for name in ("to_q", "to_k", "to_v"):
        weight = getattr(block.attn1, name).weight
        getattr(own, name).weight.copy_(weight @ (scale[:, None] * centred))
    always = block.attn1.to_out[0](block.attn1.to_v(scale * bias + block.norm1.bias))
    own.to_out[0].weight.copy_(leave @ block.attn1.to_out[0].weight)
    own.to_out[0].bias.copy_(leave @ always)
    return sum(p.numel() for p in part.parameters())
