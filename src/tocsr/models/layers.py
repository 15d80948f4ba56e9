"""Layers and small tools that several networks share.

Legend: B batch, h w latent size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Callable


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


def make_norm(kind: str, channels: int, groups: int, eps: float) -> nn.Module:
    """A `group` or `pixel` norm of so many channels; as many groups as divide them."""
    if kind == "pixel":
        return PixelNorm(channels, eps)
    return nn.GroupNorm(math.gcd(groups, channels), channels, eps)


def replace_group_norms_(module: nn.Module) -> None:
    """Puts a `PixelNorm` in the place of every `GroupNorm`, weights kept."""
    for name, child in module.named_children():
        if isinstance(child, nn.GroupNorm):
            norm = PixelNorm(child.num_channels, child.eps)
            norm.load_state_dict(child.state_dict(), assign=True)
            setattr(module, name, norm)
        else:
            replace_group_norms_(child)


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


def zero_last_(module: nn.Module) -> None:
    """Sets the last convolution or linear layer in a module to zero."""
    last = [part for part in module.modules() if isinstance(part, nn.Conv2d | nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)


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
