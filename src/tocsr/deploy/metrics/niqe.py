"""NIQE: how far an image's local statistics lie from those of natural photos; no reference.

Mittal, Soundararajan, Bovik, "Making a completely blind image quality analyzer", IEEE Signal
Processing Letters 20(3), 2013. As the authors' MATLAB code computes it and BasicSR and pyiqa after
it; the parameters of natural photos are the authors', in BasicSR's file `niqe_pris_params.npz`.
"""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tocsr.config import require
from tocsr.deploy.metrics.filters import filtered
from tocsr.errors import ExitCode, TocsrError

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 96  # pixels along a side of what one vector of features describes
NUM_FEATURES = 36  # 18 at each of two scales
_SHAPES = torch.arange(0.2, 10.0005, 0.001, dtype=torch.float64)  # alpha that are looked at
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # neighbours whose products are described
# Taps of MATLAB's imresize by 1/2: the cubic (a = -0.5), stretched to twice its width
_DISTANCES = (torch.arange(8, dtype=torch.float64) - 3.5).abs() / 2


@dataclass(frozen=True)
class NaturalPhotos:
    """The Gaussian that features of natural photos follow, and the window they are computed with.

    Args:
        mean: (36,).
        covariance: (36, 36).
        window: (7,), the row whose outer product with itself is the Gaussian window, of sum 1.
    """

    mean: Tensor
    covariance: Tensor
    window: Tensor

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Reads BasicSR's `niqe_pris_params.npz`.

        Raises:
            TocsrError: It does not hold the parameters.
        """
        try:
            with np.load(path, allow_pickle=False) as held:
                mean, covariance, window = (
                    torch.tensor(held[name], dtype=torch.float64)
                    for name in ("mu_pris_param", "cov_pris_param", "gaussian_window")
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            message = f"{path} does not hold the parameters of NIQE: {error}"
            raise TocsrError(message, code=ExitCode.MODEL) from error
        # pyiqa's window is in single precision, of a sum 1.1e-8 above 1. Where an image is flat,
        # that decides the sign of I - mu, which is counted; else rounding errors would.
        row = window.sum(dim=0) * window.float().double().sum().sqrt()
        return cls(mean.reshape(-1), covariance, row)


def niqe(luma: Tensor, natural: NaturalPhotos) -> float:
    """Distance of an image's features from those of natural photos; lower is better.

    sqrt((nu_1 - nu_2)^T ((S_1 + S_2) / 2)^-1 (nu_1 - nu_2)), nu and S the mean and the covariance
    of features over blocks of 96 x 96; rows and columns beyond the last whole block are left out.

    Args:
        luma: (H, W) in [0, 255], float64, rounded to whole levels as the authors' code has it.
        natural: The parameters.

    Returns:
        At least 0, about 3 for a good photo; NaN where too few blocks can be described, as in an
        image of one colour.

    Raises:
        TocsrError: Not two blocks in the image.
    """
    num_rows, num_cols = (side // BLOCK for side in luma.shape)
    require(
        num_rows * num_cols >= 2,
        f"NIQE needs at least two blocks of {BLOCK} x {BLOCK} pixels, got {tuple(luma.shape)}",
    )
    image = luma[: num_rows * BLOCK, : num_cols * BLOCK]
    features = torch.cat(
        [
            block_features(normalised(image, natural.window), BLOCK),
            block_features(normalised(halved(image), natural.window), BLOCK // 2),
        ],
        dim=1,
    )
    whole = features[~features.isnan().any(dim=1)]
    if len(whole) < 2:
        return math.nan
    apart = natural.mean - features.nanmean(dim=0)
    pooled = (natural.covariance + whole.T.cov()) / 2
    return math.sqrt(float(apart @ torch.linalg.pinv(pooled) @ apart))


def halved(image: Tensor) -> Tensor:
    """MATLAB's `imresize(image, 0.5)`: antialiased bicubic, borders mirrored.

    Args:
        image: (H, W), H and W even.

    Returns:
        (H / 2, W / 2).
    """
    near = 1.5 * _DISTANCES**3 - 2.5 * _DISTANCES**2 + 1
    far = -0.5 * _DISTANCES**3 + 2.5 * _DISTANCES**2 - 4 * _DISTANCES + 2
    taps = torch.where(_DISTANCES <= 1, near, far)
    taps = taps / taps.sum()
    for _ in range(2):  # along the columns, then, transposed, along the other side
        mirrored = torch.cat([image[:3].flip(0), image, image[-3:].flip(0)])
        image = (mirrored.unfold(0, 8, 2) @ taps).T
    return image


def normalised(image: Tensor, window: Tensor) -> Tensor:
    """(I - mu) / (sigma + 1), mu and sigma over a window around each pixel; (H, W) -> (H, W)."""
    reach = window.shape[0] // 2
    padded = F.pad(image[None], (reach,) * 4, mode="replicate")[0]
    mean, square = filtered(padded, window), filtered(padded**2, window)
    return (image - mean) / ((square - mean**2).abs().sqrt() + 1)


def block_features(image: Tensor, side: int) -> Tensor:
    """The 18 features of each block: of its values, and of products of neighbours.

    Args:
        image: (H, W), sides multiples of `side`.
        side: Of a block, in pixels.

    Returns:
        (num_blocks, 18); NaN where a block has no negative or no positive value.
    """
    blocks = image.unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)
    alpha, left, right = fitted(blocks)
    found = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        alpha, left, right = fitted(blocks * blocks.roll(shift, dims=(1, 2)))
        mean = (right - left) * (torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha)).exp()
        found += [alpha, mean, left, right]
    return torch.stack(found, dim=1)


def fitted(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The asymmetric generalised Gaussian of each block, by moments.

    Lasmar, Stitou, Berthoumieu, ICIP 2009: alpha is the one of a table whose
    Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)) is nearest to what the moments say.

    Args:
        blocks: (N, h, w).

    Returns:
        alpha, beta_left, beta_right, each (N,).
    """
    table = (2 * torch.lgamma(2 / _SHAPES) - torch.lgamma(1 / _SHAPES)).sub(
        torch.lgamma(3 / _SHAPES)
    )
    values = blocks.flatten(1)
    left, right = (_root_mean_square(values, values * sign > 0) for sign in (-1, 1))
    ratio = left / right
    moment = values.abs().mean(dim=1) ** 2 / (values**2).mean(dim=1)
    wanted = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    alpha = _SHAPES[(table.exp() - wanted[:, None]).abs().argmin(dim=1)]
    scale = ((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2).exp()
    return alpha, left * scale, right * scale


def _root_mean_square(values: Tensor, chosen: Tensor) -> Tensor:
    return ((values**2 * chosen).sum(dim=1) / chosen.sum(dim=1)).sqrt()
