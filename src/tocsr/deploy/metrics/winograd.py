"""Convolutions of stride 1 with fewer multiplications, by Winograd's algorithm as matrix products.

Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016. Outputs are a
product of polynomials, which is computed by its values at a few points. With 8 x 8 of them, the
6 x 6 outputs of a kernel of 3 x 3 take 5 times fewer multiplications, the 4 x 4 of one of 5 x 5
6 times fewer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

# Small ones of both signs and their inverses, which lose the least digits; infinity is the last
_POINTS = (0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0)
SIDE = len(_POINTS) + 1  # of the square of inputs that a square of outputs sees
_BYTES_AT_ONCE = 12_000_000  # of a band's products: they stay in the processor's cache


def transforms(taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """A (9 - taps, 8), G (8, taps) and B (8, 8) of y = A ((G g) * (B d)).

    y are the 9 - taps outputs of the correlation of 8 inputs d with the kernel g. It is the
    transpose of Toom and Cook's multiplication of polynomials by their values at 8 points.

    Args:
        taps: Of the kernel, at most 8.
    """

    def values(width: int) -> Tensor:
        """Powers of the points, of which infinity has the highest alone."""
        rows = [[point**power for power in range(width)] for point in _POINTS]
        return torch.tensor([*rows, [0.0] * (width - 1) + [1.0]], dtype=torch.float64)

    return values(SIDE + 1 - taps).T, values(taps), torch.linalg.inv(values(SIDE)).T


class WinogradConv:
    """What a convolution computes, up to rounding: of single precision about five times as much.

    Args:
        conv: Square kernel of odd sides up to 7, stride 1, a border of zeros that keeps the size.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        assert conv.bias is not None
        taps = conv.kernel_size[0]
        outputs, kernel, inputs = transforms(taps)
        self.reach, self.tile = taps // 2, SIDE + 1 - taps
        self.outputs, self.inputs = outputs.float(), inputs.float()
        weight = torch.einsum("jl,ik,ockl->jico", kernel, kernel, conv.weight.double())
        self.weight = weight.flatten(0, 1).float()  # (64, C, C')
        self.bias = conv.bias

    def __call__(self, h: Tensor) -> Tensor:
        """(H, W, C) -> (H, W, C'), in bands of squares."""
        height, width, channels = h.shape
        reach, tile, num_made = self.reach, self.tile, self.weight.shape[2]
        num_rows, num_cols = -(-height // tile), -(-width // tile)
        more_rows, more_cols = num_rows * tile - height, num_cols * tile - width
        h = F.pad(h, (0, 0, reach, reach + more_cols, reach, reach + more_rows))
        out = h.new_empty(num_rows, tile, num_cols, tile, num_made)
        band = max(_BYTES_AT_ONCE // (4 * SIDE**2 * num_cols * (channels + num_made)), 1)
        for first in range(0, num_rows, band):
            rows = h[first * tile : (first + band - 1) * tile + SIDE]
            made = self._squares(rows).view(tile, tile, -1, num_cols, num_made)
            out[first : first + band] = made.permute(2, 1, 3, 0, 4)
        out += self.bias
        return out.view(num_rows * tile, num_cols * tile, num_made)[:height, :width]

    def _squares(self, rows: Tensor) -> Tensor:
        """A band (h, W', C) -> (t, t, b * c * C'): by column and row in a square, b x c squares."""
        tile, channels = self.tile, rows.shape[2]
        lines = rows.unfold(0, SIDE, tile).permute(3, 0, 1, 2)  # (8, b, W', C)
        lines = (self.inputs @ lines.flatten(1)).view(SIDE, -1, *rows.shape[1:])
        squares = lines.unfold(2, SIDE, tile).permute(4, 0, 1, 2, 3)  # (8, 8, b, c, C)
        values = self.inputs @ squares.flatten(1)
        products = values.view(SIDE * SIDE, -1, channels).bmm(self.weight)  # (64, b c, C')
        made = self.outputs @ products.view(SIDE, -1)  # (t, 8 b c C')
        return self.outputs @ made.view(tile, SIDE, -1)  # (t, t, b c C')
