"""JPEG: what a file of it gives back, for batches on any device, and the file itself.

The batched one follows the standard (ITU-T T.81, JFIF) with the choices of libjpeg: its tables by
quality, colours at half resolution along both sides, their means rounded up and down in turn, edges
repeated to whole blocks, its transform in whole numbers, and colours interpolated by quarters on
the way back ("fancy upsampling"). All are whole numbers, exact in float32, so the two agree to the
bit in any batch, on any device that is not told to multiply float32 in fewer digits (TF32).
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

# T.81, tables K.1 and K.2: steps of the 64 frequencies at quality 50, row by row.
_LUMA = """
    16 11 10 16  24  40  51  61   12 12 14 19  26  58  60  55   14 13 16 24  40  57  69  56
    14 17 22 29  51  87  80  62   18 22 37 56  68 109 103  77   24 35 55 64  81 104 113  92
    49 64 78 87 103 121 120 101   72 92 95 98 112 100 103  99"""
_CHROMA = """
    17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99   24 26 56 99 99 99 99 99
    47 66 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99
    99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99"""
# JFIF's colours, in 65536ths as libjpeg rounds them: sums of products with 0..255 stay below 2^24.
_TO_YCC = ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329))
_OFFSETS = (32768, (128 << 16) + 32767, (128 << 16) + 32767)
_TO_RGB = ((0, 91881), (-22554, -46802), (116130, 0))
# The cosine transform of 8 places, a row for a frequency: sqrt(2) cos in 8192ths as they come of
# libjpeg's accurate whole-number algorithm (Loeffler, Ligtenberg and Moschytz 1989).
_DCT = (
    (8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363),
    (10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703),
    (9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633),
    (8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437),
    (4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433),
    (2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260),
)


def quantization_tables(quality: Tensor) -> Tensor:
    """Steps of libjpeg for qualities (B,) in 1..100: (B, 2, 64), luma and chroma, whole numbers."""
    base = torch.tensor([[int(n) for n in table.split()] for table in (_LUMA, _CHROMA)])
    quality = quality.long().view(-1, 1, 1)
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    steps = (base.to(quality.device) * percent + 50) // 100
    return steps.clamp(1, 255).float()


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Images after JPEG with colours at half resolution.

    Args:
        images: (B, 3, H, W) in [0, 1], of any size; rounded to 8 bits first, as in an encoder.
        quality: (B,), whole numbers in 1..100.

    Returns:
        (B, 3, H, W), multiples of 1/255 in [0, 1].
    """
    height, width = images.shape[-2:]
    luma_steps, chroma_steps = quantization_tables(quality.to(images.device)).unbind(1)
    ycc = _to_ycc((images * 255).round().clamp(0, 255))
    luma = F.pad(ycc[:, :1], (0, -width % 8, 0, -height % 8), mode="replicate")
    luma = _coded(luma, luma_steps)[:, :, :height, :width]
    chroma = _upsampled(
        _coded(_halved(ycc[:, 1:]), chroma_steps)[:, :, : -(-height // 2), : -(-width // 2)]
    )
    return _to_rgb(luma, chroma[:, :, :height, :width]) / 255


def pillow_jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """The same through a JPEG file of Pillow's, in memory; on the CPU."""
    results = []
    for image, q in zip(images, quality.tolist(), strict=True):
        levels = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
        file = io.BytesIO()
        Image.fromarray(levels.numpy()).save(file, "JPEG", quality=int(q), subsampling=2)
        results.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255)
    return torch.stack(results)


def _mixed(channels: Tensor, weights: tuple[tuple[int, ...], ...]) -> Tensor:
    """Sums of channels (B, C, H, W), weighted: (B, len(weights), H, W)."""
    return torch.einsum("oc,bchw->bohw", torch.tensor(weights).to(channels), channels)


def _to_ycc(rgb: Tensor) -> Tensor:
    offsets = torch.tensor(_OFFSETS).to(rgb).view(1, 3, 1, 1)
    return ((_mixed(rgb, _TO_YCC) + offsets) / 65536).floor()


def _to_rgb(luma: Tensor, chroma: Tensor) -> Tensor:
    difference = ((_mixed(chroma - 128, _TO_RGB) + 32768) / 65536).floor()
    return (luma + difference).clamp(0, 255)


def _halved(chroma: Tensor) -> Tensor:
    """Means of 2 x 2, sides made multiples of 8; halves go up and down in turn along a row."""
    height, width = chroma.shape[-2:]
    whole = F.pad(chroma, (0, -width % 16, 0, height % 2), mode="replicate")
    rounding = torch.tensor([1.0, 2.0] * (whole.shape[-1] // 4)).to(chroma)
    means = ((F.avg_pool2d(whole, 2) * 4 + rounding) / 4).floor()
    return F.pad(means, (0, 0, 0, -means.shape[-2] % 8), mode="replicate")


def _upsampled(chroma: Tensor) -> Tensor:
    """Twice the size: a pixel lies a quarter of the way to its neighbour."""
    B, C, height, width = chroma.shape
    if width <= 2:  # libjpeg repeats the colours of so narrow an image
        return chroma.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    padded = F.pad(chroma, (1, 1, 1, 1), mode="replicate")
    above, middle, below = padded[:, :, :-2], padded[:, :, 1:-1], padded[:, :, 2:]
    rows = torch.stack((3 * middle + above, 3 * middle + below), 3).view(B, C, 2 * height, -1)
    left, middle, right = rows[..., :-2], rows[..., 1:-1], rows[..., 2:]
    even, odd = (3 * middle + left + 8) / 16, (3 * middle + right + 7) / 16
    return torch.stack((even, odd), 4).view(B, C, 2 * height, 2 * width).floor()


def _transformed(matrix: Tensor, values: Tensor, shift: int) -> Tensor:
    """The product matrix @ values / 2^shift along the first dimension, in whole numbers.

    The values go in as their higher and their lower seven bits, whose sums float32 holds exactly.
    """
    high = (values / 128).floor()
    parts = torch.stack((high, values - 128 * high)).flatten(2)
    high_sum, low_sum = (matrix @ parts).int()
    rounded = (high_sum * 128 + low_sum + (1 << (shift - 1))) >> shift
    return rounded.float().view(values.shape)


def _coded(plane: Tensor, steps: Tensor) -> Tensor:
    """Planes (B, C, H, W) of 0..255, sides multiples of 8, after quantization by steps (B, 64).

    libjpeg's transform: it keeps two more binary digits between rows and columns, and three of a
    coefficient.
    """
    B, C, height, width = plane.shape
    dct = torch.tensor(_DCT, device=plane.device).float()
    steps = steps.view(B, 8, 8).permute(1, 2, 0)[..., None]
    cells = plane.view(B, C, height // 8, 8, width // 8, 8).permute(5, 3, 0, 1, 2, 4)
    values = cells.reshape(8, 8, B, -1) - 128
    values = _transformed(dct, values, 11).transpose(0, 1)
    values = _transformed(dct, values, 15)
    values = values.sign() * ((values.abs() + 4 * steps) / (8 * steps)).floor() * steps
    values = _transformed(dct.T, values, 11).transpose(0, 1)
    cells = (_transformed(dct.T, values, 18) + 128).clamp(0, 255).view(cells.shape)
    return cells.permute(2, 3, 4, 1, 5, 0).reshape(B, C, height, width)
