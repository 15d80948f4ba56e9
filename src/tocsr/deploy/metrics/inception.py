"""The Inception-v3 whose features FID compares: TensorFlow's of 2015, as pytorch-fid has ported it.

Szegedy et al., "Rethinking the Inception architecture for computer vision", CVPR 2016. The 2015
network is not torchvision's: averages leave the border out, and the last block takes the most
instead of an average. Parameters have the names of `pt_inception-2015-12-05-6726825d.pth`; its
classifier of 1008 classes is left out, since FID does not ask for classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.deploy.metrics.trunks import load_state_, read_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Branch = Sequence["Conv | tuple[Conv, ...] | nn.Module"]

SIDE = 299  # pixels of what it looks at


class Conv(NamedTuple):
    """A convolution of a block.

    Args:
        name: Of its parameters.
        width: Output channels.
        taps: Of the kernel, down and along.
        stride: With 2, no border is added; else one that keeps the size.
    """

    name: str
    width: int
    taps: tuple[int, int] = (1, 1)
    stride: int = 1


class _ConvNorm(nn.Module):
    """Convolution, normalisation by the statistics of the training, ReLU."""

    def __init__(
        self, channels: int, width: int, taps: tuple[int, int], stride: int, border: tuple[int, int]
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, taps, stride, border, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Mixed(nn.Module):
    """Branches of one input, side by side: (B, C, h, w) -> (B, C', h', w').

    Args:
        channels: C.
        branches: The layers of each in order; those in a tuple have one input and stand side by
            side.
    """

    def __init__(self, channels: int, *branches: Branch) -> None:
        super().__init__()
        self.branches = branches
        self.width = 0
        for branch in branches:
            width = channels
            for step in branch:
                if isinstance(step, nn.Module):
                    continue
                convs = (step,) if isinstance(step, Conv) else step
                for name, out, taps, stride in convs:
                    border = (taps[0] // 2, taps[1] // 2) if stride == 1 else (0, 0)
                    self.add_module(name, _ConvNorm(width, out, taps, stride, border))
                width = sum(conv.width for conv in convs)
            self.width += width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._through(branch, x) for branch in self.branches], dim=1)

    def _through(self, branch: Branch, h: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, nn.Module):
                h = step(h)
            elif isinstance(step, Conv):
                h = self.get_submodule(step.name)(h)
            else:
                h = torch.cat([self.get_submodule(conv.name)(h) for conv in step], dim=1)
        return h


_AVERAGE = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
_MOST = nn.MaxPool2d(3, stride=1, padding=1)
_MOST_OF_TWO = nn.MaxPool2d(3, stride=2)  # halves the sides


def _a(channels: int, pooled: int) -> _Mixed:
    return _Mixed(
        channels,
        [Conv("branch1x1", 64)],
        [Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))],
        [
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ],
        [_AVERAGE, Conv("branch_pool", pooled)],
    )


def _b(channels: int) -> _Mixed:
    return _Mixed(
        channels,
        [Conv("branch3x3", 384, (3, 3), 2)],
        [
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3), 2),
        ],
        [_MOST_OF_TWO],
    )


def _c(channels: int, inner: int) -> _Mixed:
    return _Mixed(
        channels,
        [Conv("branch1x1", 192)],
        [
            Conv("branch7x7_1", inner),
            Conv("branch7x7_2", inner, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ],
        [
            Conv("branch7x7dbl_1", inner),
            Conv("branch7x7dbl_2", inner, (7, 1)),
            Conv("branch7x7dbl_3", inner, (1, 7)),
            Conv("branch7x7dbl_4", inner, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ],
        [_AVERAGE, Conv("branch_pool", 192)],
    )


def _d(channels: int) -> _Mixed:
    return _Mixed(
        channels,
        [Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2)],
        [
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, (3, 3), 2),
        ],
        [_MOST_OF_TWO],
    )


def _e(channels: int, pool: nn.Module) -> _Mixed:
    return _Mixed(
        channels,
        [Conv("branch1x1", 320)],
        [
            Conv("branch3x3_1", 384),
            (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
        ],
        [
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ],
        [pool, Conv("branch_pool", 192)],
    )


class Inception(nn.Sequential):
    """The network, by the names of its parts.

    Shape:
        (B, 3, 299, 299) in [-1, 1] -> (B, 2048), at least 0.
    """

    def __init__(self) -> None:
        super().__init__()

        def stem(name: str, channels: int, width: int, side: int, stride: int, border: int) -> None:
            layer = _ConvNorm(channels, width, (side, side), stride, (border, border))
            self.add_module(name, layer)

        stem("Conv2d_1a_3x3", 3, 32, 3, 2, 0)
        stem("Conv2d_2a_3x3", 32, 32, 3, 1, 0)
        stem("Conv2d_2b_3x3", 32, 64, 3, 1, 1)
        self.add_module("maxpool1", _MOST_OF_TWO)
        stem("Conv2d_3b_1x1", 64, 80, 1, 1, 0)
        stem("Conv2d_4a_3x3", 80, 192, 3, 1, 0)
        self.add_module("maxpool2", _MOST_OF_TWO)
        blocks = {
            "5b": _a(192, 32), "5c": _a(256, 64), "5d": _a(288, 64),
            "6a": _b(288),
            "6b": _c(768, 128), "6c": _c(768, 160), "6d": _c(768, 160), "6e": _c(768, 192),
            "7a": _d(768),
            "7b": _e(1280, _AVERAGE), "7c": _e(2048, _MOST),
        }  # fmt: skip
        for name, block in blocks.items():
            self.add_module(f"Mixed_{name}", block)

    def forward(self, input: Tensor) -> Tensor:
        """Features: the last block's output, averaged over its pixels."""
        return super().forward(input).mean(dim=(2, 3))


def load_inception(path: Path) -> Inception:
    """The network with the weights of pytorch-fid's file.

    Raises:
        TocsrError: The file does not hold them (MODEL).
    """
    held = {name: t for name, t in read_tensors(path).items() if not name.startswith("fc.")}
    network = Inception()
    load_state_(network, held, path)
    return network
