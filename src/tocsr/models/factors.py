"""A 3x3 convolution as cheaper ones: low rank in its channels, or separable.

Not in the paper. "Nearest" is meant for outputs, on inputs of independent channels whose
neighbouring pixels are alike. Weights that are nearest as such start most surrogates farther away.

Legend: O I output and input channels of a convolution.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEIGHBOURS = 0.5  # correlation of a feature with the next pixel's; that of d pixels is its power d


def _tap_root() -> Tensor:
    """L (9, 9), where L L^T is the correlation of the pixels under a kernel's nine taps."""
    place = torch.arange(3)
    line = NEIGHBOURS ** (place[:, None] - place).abs().double()
    return torch.linalg.cholesky(torch.kron(line, line))


def _strongest(gram: Tensor, rank: int) -> Tensor:
    """The leading eigenvectors of a symmetric matrix (n, n), as rows (at most n, n)."""
    return torch.linalg.eigh(gram)[1].flip(1)[:, :rank].T


def low_rank(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """A 3x3 convolution as 1x1, 3x3 and 1x1 ones through `rank` channels.

    The Tucker decomposition of both channel modes, one mode after the other (Vannieuwenhoven,
    Vandebril and Meerbergen 2012): exact where the weight has that rank in both.

    Args:
        weight: (O, I, 3, 3), float64 on the CPU.
        rank: r; where O or I is smaller, that many are used.

    Returns:
        first (r, I), middle (r, r, 3, 3), last (O, r).
    """
    rooted = weight.flatten(2) @ _tap_root()  # (O, I, 9): squared norms are powers of outputs
    enter = _strongest(torch.einsum("oik,ojk->ij", rooted, rooted), rank)
    rooted = torch.einsum("oik,ri->ork", rooted, enter)
    leave = _strongest(torch.einsum("ork,prk->op", rooted, rooted), rank)
    return enter, torch.einsum("oiyx,ri,so->sryx", weight, enter, leave), leave.T


def separated(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A 3x3 convolution as a depthwise one and a 1x1 one: the nearest for each input channel.

    What an input channel gives is a matrix O x 9, of which the product of a column and a row is
    kept: its first singular vectors.

    Args:
        weight: (O, I, 3, 3), float64 on the CPU.

    Returns:
        depthwise (I, 1, 3, 3), each kernel of norm 1; pointwise (O, I).
    """
    root = _tap_root()
    rooted = weight.flatten(2).transpose(0, 1) @ root  # (I, O, 9)
    row = torch.linalg.eigh(rooted.mT @ rooted)[1][:, :, -1]
    column = torch.einsum("iok,ik->oi", rooted, row)
    kernel = torch.linalg.solve(root.T, row.T).T  # (I, 9)
    norm = kernel.norm(dim=1)
    return (kernel / norm[:, None]).view(-1, 1, 3, 3), column * norm
