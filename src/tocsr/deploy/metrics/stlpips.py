"""Shift-tolerant LPIPS as a metric of files: the network is `tocsr.models.perceptual`.

Here it is computed in fewer operations: the blur after a convolution goes before it, further
convolutions go by Winograd, and the features of an image are computed once.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.config import require
from tocsr.data.images import to_tensor
from tocsr.deploy.metrics.winograd import WinogradConv
from tocsr.models.perceptual import MIN_SIDE, ShiftTolerantLPIPS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tocsr.deploy.metrics.subject import Subject

    Layer = Callable[[Tensor], Tensor]

_EPS = 1e-10
# The blur, and what it is at the end of a line of even length, where the reflection folds it
_BLURS = (torch.tensor([1.0, 2.0, 1.0]) / 4, torch.tensor([1.0, 1.0]) / 2)


def blurred(h: Tensor) -> Tensor:
    """Every second pixel after a [1 2 1] blur, borders reflected by two pixels.

    The first two outputs of a line are equal, as the reflection shows both the same; so are the
    last two of a line of odd length.

    Args:
        h: (H, W, C).

    Returns:
        ((H + 1) // 2 + 1, (W + 1) // 2 + 1, C).
    """
    for side in (0, 1):
        h = h.transpose(0, side)
        inner = (h[:-2:2] + h[2::2]).add_(h[1:-1:2], alpha=2).mul_(0.25)
        last = inner[-1:] if len(h) % 2 else (h[-2:-1] + h[-1:]) / 2
        h = torch.cat([inner[:1], inner, last]).transpose(0, side)
    return h


class BlurredConv:
    """A convolution of stride 1 and the blur after it, in a quarter of the operations.

    Both are linear and alike everywhere, so the blur may as well come first, where channels are
    few, and the convolution need be known only at every second pixel.

    Args:
        conv: Square kernel, stride 1.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv
        self.weight = conv.weight.contiguous(memory_format=torch.channels_last)

    def __call__(self, h: Tensor) -> Tensor:
        """(H, W, C) -> as `blurred` of the convolution."""
        border, reach = self.conv.padding[0], self.conv.kernel_size[0] - 1
        assert isinstance(border, int)
        pixels = F.pad(h, (0, 0, border, border, border, border)).permute(2, 0, 1)[:, None]
        height, width = (side - reach for side in pixels.shape[2:])  # of what is blurred
        out = h.new_empty((height + 1) // 2 + 1, (width + 1) // 2 + 1, self.conv.out_channels)
        for down, rows, seen_rows in zip(_BLURS, *_parts(height), strict=False):
            for along, cols, seen_cols in zip(_BLURS, *_parts(width), strict=False):
                blur = torch.outer(down, along)[None, None]
                soft = F.conv2d(pixels[:, :, seen_rows, seen_cols], blur).transpose(0, 1)
                made = F.conv2d(soft, self.weight, self.conv.bias, stride=2)
                out[rows, cols] = made[0].permute(1, 2, 0)
        for line, length in ((out, height), (out.transpose(0, 1), width)):
            line[0] = line[1]
            if length % 2:
                line[-1] = line[-2]
        return out


def _parts(length: int) -> tuple[list[slice], list[slice]]:
    """Which outputs of a blurred line are made by each of `_BLURS`, and which inputs they see."""
    inner = slice(1, (length + 1) // 2)
    if length % 2:
        return [inner], [slice(None)]
    return [inner, slice(-1, None)], [slice(None), slice(length - 2, None)]


def most(h: Tensor, side: int) -> Tensor:
    """Max pooling of stride 1, rows and then columns.

    Args:
        h: (H, W, C).
        side: Of a window.

    Returns:
        (H - side + 1, W - side + 1, C).
    """
    for dim in (0, 1):
        length = h.shape[dim] - side + 1
        shifts = [h.narrow(dim, place, length) for place in range(side)]
        h = torch.maximum(shifts[0], shifts[1])
        for shift in shifts[2:]:
            torch.maximum(h, shift, out=h)
    return h


def fast_layers(part: nn.Module) -> list[Layer]:
    """What a slice of the network computes, layer by layer, of pixels (H, W, C)."""
    layers = [*part.children()]
    found: list[Layer] = []
    for layer, after in pairwise([*layers, None]):
        match layer:
            case nn.Conv2d():
                is_alone = after is None or isinstance(after, nn.ReLU)
                found.append(WinogradConv(layer) if is_alone else BlurredConv(layer))
            case nn.ReLU():
                found.append(torch.relu_)
            case nn.MaxPool2d(kernel_size=int(side)):
                found.append(partial(most, side=side))
            case _:  # a blur
                if not (found and isinstance(found[-1], BlurredConv)):
                    found.append(blurred)
    return found


def load_stlpips(paths: Sequence[Path]) -> Callable[[Subject, Subject], float]:
    """ST-LPIPS, by the features that each image is asked for once.

    Args:
        paths: The one file of weights.

    Raises:
        TocsrError: The file does not hold the weights; later, an image below 32 pixels.
    """
    metric = ShiftTolerantLPIPS.from_file(paths[0])
    slices = [fast_layers(part) for part in metric.net.values()]
    heads = [head.flatten() for head in metric.heads]

    @torch.inference_mode()
    def features(image: Subject) -> list[Tensor]:
        require(
            min(image.size) >= MIN_SIDE,
            f"ST-LPIPS needs at least {MIN_SIDE} x {MIN_SIDE} pixels, got {image.size}",
        )
        pixels = (to_tensor(image.rgb)[None] - metric.shift) / metric.scale
        h = pixels[0].permute(1, 2, 0).contiguous()
        found = []
        for layers in slices:
            for layer in layers:
                h = layer(h)
            found.append(h / (torch.linalg.vector_norm(h, dim=2, keepdim=True) + _EPS))
        return found

    @torch.inference_mode()
    def measure(image: Subject, reference: Subject) -> float:
        pairs = zip(
            image.derived("ST-LPIPS", features),
            reference.derived("ST-LPIPS", features),
            heads,
            strict=True,
        )
        return sum(float(((x - y).square_() @ head).mean()) for x, y, head in pairs)

    return measure
