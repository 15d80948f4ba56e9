"""What a result's detail must not be: a pattern of the decoder's, or of another amount.

Not in the paper. Perceptual losses and discriminators take a fine regular pattern for detail; these
three terms look at the detail's statistics alone, and none of them asks where it lies.

Legend: B batch, H W pixels, h w places whose neighbourhood lies inside.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tocsr.models.vae import LATENT_STRIDE

_EPS = 1e-8  # of squares of levels in [-1, 1]
_SPAN = 64  # pixels of a window whose spectrum is taken
_STEPS, _WINDOW = (1, 2), 8  # pixels between those whose difference is detail; its neighbourhood
_LEVEL = 2 / 255  # detail below a level of an 8-bit file is none


def grid_error(restored: Tensor) -> Tensor:
    """How much of its detail lies on a grid of the latent's cells, at least 0, a scalar.

    grid = mean_pq( (E_pq / mean_pq E_pq - 1)^2 ), E_pq the energy of what a blur of 3 x 3 takes
    away, at row p and column q of all cells of 8 x 8, which is what one pixel of the latent covers.
    A photo has as much detail at one place of a cell as at any other. A decoder that sets dots of
    either sign where one is wanted has not, and perceptual losses take dots for detail.

    Args:
        restored: (B, 3, H, W), H and W multiples of 8.
    """
    detail = (restored - F.avg_pool2d(restored, 3, 1, 1, count_include_pad=False)).square()
    cells = detail.unflatten(3, (-1, LATENT_STRIDE)).unflatten(2, (-1, LATENT_STRIDE))
    energy = cells.mean(dim=(0, 1, 2, 4))
    return (energy / (energy.mean() + _EPS) - 1).square().mean()


def _peaks(images: Tensor) -> Tensor:
    """How far the spectrum stands out at the waves that repeat in each cell, (8, 8), a log.

    The power of windows of 64 x 64, at each multiple of a wave of 8 pixels, over that around it.
    """
    windows = images.unfold(2, _SPAN, _SPAN // 2).unfold(3, _SPAN, _SPAN // 2)
    fade = torch.hann_window(_SPAN, device=images.device)
    faded = (windows - windows.mean(dim=(-2, -1), keepdim=True)) * fade * fade[:, None]
    power = torch.fft.fft2(faded).abs().square().mean(dim=(0, 1, 2, 3))[None, None]
    near, around = (
        F.avg_pool2d(F.pad(power, 4 * (side // 2,), mode="circular"), side, 1) for side in (3, 9)
    )
    return ((near + _EPS) / (around + _EPS)).log()[0, 0, ::LATENT_STRIDE, ::LATENT_STRIDE]


def comb_error(restored: Tensor, photos: Tensor) -> Tensor:
    """How far the result's spectrum differs from the photos' where a decoder's pattern repeats.

    comb = mean_kl( (log r_kl(restored) - log r_kl(photos))^2 ), r_kl the power at the wave of k/8
    and l/8 cycles a pixel over the power around it. Photos have about 1 there. A weave that repeats
    in every cell stands out, and one whose sign changes from cell to cell leaves a gap.

    Args:
        restored: (B, 3, H, W) in [-1, 1], H and W at least 64.
        photos: Likewise.
    """
    return F.mse_loss(_peaks(restored), _peaks(photos))


def _texture(image: Tensor) -> Tensor:
    """Half the log of detail's energy around each place, by band (B, 3, bands, h, w)."""
    bands = []
    for step in _STEPS:
        across = image[..., step:] - image[..., :-step]
        down = image[..., step:, :] - image[..., :-step, :]
        slant = across[..., step:, :] - across[..., :-step, :]
        bands += [across[..., :-step, :], down[..., :-step], slant]
    height, width = (min(band.shape[axis] for band in bands) for axis in (-2, -1))
    energy = torch.stack([band[..., :height, :width].square() for band in bands], dim=2)
    around = F.avg_pool3d(energy, (1, _WINDOW, _WINDOW), (1, _WINDOW // 2, _WINDOW // 2))
    return (around + _LEVEL**2).log() / 2


def texture_error(restored: Tensor, photos: Tensor) -> Tensor:
    """How unlike two images are in how much detail they have at each place, a scalar, at least 0.

    texture = mean | log e_b(restored) - log e_b(photo) |, e_b^2 the energy in a window of 8 x 8
    pixels of band b: differences across, down and slant of pixels 1 and 2 apart. Where detail lies
    inside the window does not count, so a result need not guess it, only how much there is. A
    pattern where the photo is smooth counts as much as texture that the result lacks.

    Args:
        restored: (B, 3, H, W) in [-1, 1].
        photos: Likewise.
    """
    return F.l1_loss(_texture(restored), _texture(photos))
