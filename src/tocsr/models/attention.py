"""Attention of the surrogates: over the whole image or in windows, or the teacher's transformer.

Legend: B batch, c channels, h w size of the features, n windows in an image, p pixels in a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.models.layers import make_norm, replace_group_norms_, zero_last_

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def to_windows(x: Tensor, height: int, width: int) -> Tensor:
    """Cuts (B, c, h, w) into tokens (B n, p, c) of windows of height x width, row by row.

    Both must divide the image's.
    """
    batch, channels, rows, columns = (
        x.shape[0],
        x.shape[1],
        x.shape[2] // height,
        x.shape[3] // width,
    )
    x = x.view(batch, channels, rows, height, columns, width).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(batch * rows * columns, height * width, channels)


def from_windows(tokens: Tensor, height: int, width: int, shape: Sequence[int]) -> Tensor:
    """The image of this shape, (B, c, h, w), that `to_windows` cut."""
    batch, channels, rows, columns = shape[0], shape[1], shape[2] // height, shape[3] // width
    x = tokens.view(batch, rows, columns, height, width, channels).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(*shape)


def in_windows(attend: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, window: int) -> Tensor:
    """Attention that stays inside windows which do not overlap, the first in the upper left corner.

    A window is cut to the image where that is smaller. Where windows do not divide the image, the
    last ones stick out at the right and below, and nobody looks at what lies there.

    Args:
        attend: Tokens (B n, p, c), and which of them may be looked at, bool (B n, 1, p) or None for
            all -> tokens of the same shape.
        x: (B, c, h, w).
        window: Side of a window in pixels of x.

    Returns:
        (B, c, h, w).
    """
    size = (x.shape[2], x.shape[3])
    height, width = (min(window, side) for side in size)
    below, right = -size[0] % height, -size[1] % width
    inside = None
    if below or right:
        x = F.pad(x, (0, right, 0, below))
        real = torch.ones(1, 1, *size, dtype=torch.bool, device=x.device)
        mask = to_windows(F.pad(real, (0, right, 0, below)), height, width)  # (n, p, 1)
        inside = mask.transpose(1, 2).repeat(len(x), 1, 1)
    tokens = attend(to_windows(x, height, width), inside)
    whole = from_windows(tokens, height, width, x.shape)
    return whole[:, :, : size[0], : size[1]]


class SelfAttention(nn.Module):
    """Self-attention over all pixels or in windows, added to its input and nothing at first.

    Args:
        channels: c.
        base: Facts of the base network: norm, groups, heads.
        norm: group or pixel.
        window: Side of the windows in pixels of the features; 0 attends to the whole image.

    Shape:
        (B, c, h, w) -> the same.
    """

    def __init__(
        self, channels: int, base: Mapping[str, Any], norm: str = "group", window: int = 0
    ) -> None:
        super().__init__()
        self.window = window
        self.norm = make_norm(norm, channels, base["norm_num_groups"], base["norm_eps"])
        heads = base["attention_head_dim"]  # diffusers' name for the number of heads
        self.attention = Attention(channels, heads=heads, dim_head=channels // heads)
        zero_last_(self.attention.to_out)

    def _attend(self, tokens: Tensor, inside: Tensor | None) -> Tensor:
        return self.attention(tokens, attention_mask=inside)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        normal = self.norm(x)
        if self.window:
            return x + in_windows(self._attend, normal, self.window)
        tokens = normal.flatten(2).transpose(1, 2)  # (B, h w, c)
        return x + self._attend(tokens, None).transpose(1, 2).unflatten(2, x.shape[2:])


class TeacherAttention(nn.Module):
    """The teacher's own transformer: self-attention, cross-attention and feed-forward.

    Shape:
        (B, c, h, w) -> the same.
    """

    def __init__(self, channels: int, base: Mapping[str, Any], norm: str = "group") -> None:
        super().__init__()
        heads = base["attention_head_dim"]
        self.transformer = Transformer2DModel(
            heads,
            channels // heads,
            in_channels=channels,
            norm_num_groups=base["norm_num_groups"],
            cross_attention_dim=base["cross_attention_dim"],
        )
        if norm == "pixel":
            replace_group_norms_(self.transformer)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        return self.transformer(x, encoder_hidden_states=context, return_dict=False)[0]
