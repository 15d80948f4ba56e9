"""The fine detail of an image, and how much of it repeats on a grid.

Legend: B batch, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

_CELLS = 4  # along a side, between which detail is compared
_CELL = 16  # of two latent pixels: a U-Net that halves its latent once can repeat in these too
_NEIGHBOURHOOD = 33  # pixels along a side that say how strong detail is around a place
_INVISIBLE = 1.5e-5  # energy of detail of half a level of 255, in [-1, 1]


def detail(image: Tensor) -> Tensor:
    """What a blur of 3 x 3 takes away: (B, 3, H, W) -> (B, 3, H, W)."""
    return image - F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)


def _around(x: Tensor) -> Tensor:
    """The mean over the square around each pixel, by columns and then by rows."""
    side, half = _NEIGHBOURHOOD, _NEIGHBOURHOOD // 2
    columns = F.avg_pool2d(x, (side, 1), 1, (half, 0), count_include_pad=False)
    return F.avg_pool2d(columns, (1, side), 1, (0, half), count_include_pad=False)


def repetition(image: Tensor) -> Tensor:
    """How much of its detail an image repeats from cell to cell of a latent, a scalar.

    Detail is divided by its strength around it, so that a faint net in a sky counts as much as one
    on leaves. Its energy after a mean over 4 x 4 cells of 16 x 16 pixels, each pixel of a cell by
    itself, is 1/16 where nothing repeats, about what photos have, and 1 where every cell is the
    same. Added to it is the same of its magnitude, for dots on a grid whose sign changes.

    Args:
        image: (B, 3, H, W) in [-1, 1], H and W multiples of 16 and at least 64.
    """
    fine = detail(image)
    strength = _around(fine.square().mean(1, keepdim=True)).detach()
    relative = fine / (strength + _INVISIBLE).sqrt()
    magnitude = relative.abs()
    patterns = torch.cat([relative, magnitude - _around(magnitude)], dim=1)
    repeated = F.avg_pool2d(F.pixel_unshuffle(patterns, _CELL), _CELLS, _CELLS // 2)
    return 2 * repeated.square().mean()
