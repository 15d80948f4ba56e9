"""Blur kernels: six families around a Gaussian, and the sinc filter.

Each sums to 1. With q = x^T S^-1 x, where S is the covariance of two standard deviations and a
rotation, and x the place from the middle, x to the right and y down:

| family | value |
|---|---|
| `iso`, `aniso` | exp(-q / 2) |
| `generalized_iso`, `generalized_aniso` | exp(-q^beta / 2) |
| `plateau_iso`, `plateau_aniso` | 1 / (1 + q^beta) |
| `sinc` | cutoff J1(cutoff r) / (2 pi r), a disk of frequencies |
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tocsr.data.degradation.draws import Blur


def kernel(blur: Blur) -> Tensor:
    """The kernel (size, size), float32, on the CPU."""
    if blur.family == "sinc":
        values = sinc(blur.size, blur.cutoff)
    else:
        values = bell(blur.family, blur.size, blur.sigma, blur.rotation, blur.beta)
    return (values / values.sum()).float()


def _places(size: int) -> tuple[Tensor, Tensor]:
    """Places x and y of each pixel from the middle, (size, size) each, float64."""
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def bell(
    family: str, size: int, sigma: tuple[float, float], rotation: float, beta: float
) -> Tensor:
    """A kernel of one of the six families, before its sum is made 1.

    Args:
        family: Its name; whether it is isotropic is said by `sigma`.
        size: Side in pixels, odd.
        sigma: Standard deviations along the first and the second axis, in pixels.
        rotation: Of the axes, from x towards y, in radians.
        beta: Exponent; not of `iso` and `aniso`.
    """
    x, y = _places(size)
    cos, sin = math.cos(rotation), math.sin(rotation)
    q = ((cos * x + sin * y) / sigma[0]) ** 2 + ((cos * y - sin * x) / sigma[1]) ** 2
    match family.removesuffix("aniso").removesuffix("iso"):
        case "":
            return torch.exp(-q / 2)
        case "generalized_":
            return torch.exp(-(q**beta) / 2)
        case "plateau_":
            return 1 / (1 + q**beta)
        case _:
            raise ValueError(f"no family of kernels is called {family}")


def sinc(size: int, cutoff: float) -> Tensor:
    """The circular low-pass filter cut to `size`, before its sum is made 1.

    Args:
        size: Side in pixels, odd.
        cutoff: In radians per pixel; below pi.
    """
    x, y = _places(size)
    r = torch.hypot(x, y)
    r[size // 2, size // 2] = 1  # in its place stands the limit, J1(v) -> v / 2
    values = cutoff * torch.special.bessel_j1(cutoff * r) / (2 * math.pi * r)
    values[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return values


def blur_images(images: Tensor, kernels: Tensor) -> Tensor:
    """Correlates each image with a kernel of its own, mirrored about the middle of its edge pixels.

    By Fourier transforms: on a CPU a quarter of the time of a grouped convolution at the largest
    kernels, and as much at the smallest.

    Args:
        images: (B, C, H, W), of any size.
        kernels: (B, k, k), k odd.

    Returns:
        (B, C, H, W).
    """
    height, width = images.shape[-2:]
    margin = kernels.shape[-1] // 2
    rows, columns = (_mirrored(n, margin, images.device) for n in (height, width))
    padded = images.index_select(2, rows).index_select(3, columns)
    size = [_fast_length(n) for n in padded.shape[-2:]]
    weights = torch.fft.rfft2(kernels[:, None].to(images), s=size).conj()
    blurred = torch.fft.irfft2(torch.fft.rfft2(padded, s=size) * weights, s=size)
    return blurred[..., :height, :width]


def _fast_length(length: int) -> int:
    """The next number without prime factors above 5."""
    rest = length
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    return length if rest == 1 else _fast_length(length + 1)


def _mirrored(length: int, margin: int, device: torch.device) -> Tensor:
    """Indices of a row with `margin` more on both sides, mirrored as often as it takes.

    torch's own padding refuses a margin as large as the image.
    """
    period = max(2 * (length - 1), 1)
    place = torch.arange(-margin, length + margin, device=device).remainder(period)
    return torch.minimum(place, period - place)
