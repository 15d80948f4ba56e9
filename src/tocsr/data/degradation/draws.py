"""What one sample's degradation is: its kernels, sizes, modes, noise and JPEG qualities.

Every number is drawn whether it is used or not, so that a setting that changes leaves the other
draws of a sample as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tocsr.seeding import numpy_rng

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tocsr.data.degradation.settings import Degradation, Order, Range

Mode = Literal["area", "bilinear", "bicubic"]
MODES: tuple[Mode, ...] = ("area", "bilinear", "bicubic")
_NUM_DRAWS = 64  # of one sample; room for more without a change of those that are used
_FLATTEST = 0.7  # of a lens's blur: its smaller standard deviation over the larger
_SMALL_KERNEL = 13  # from this side on Real-ESRGAN lets a sinc filter cut lower frequencies


@dataclass(frozen=True)
class Blur:
    """One blur kernel.

    Args:
        family: One of the six families, or `sinc`.
        size: Side in pixels, odd.
        sigma: Standard deviations along the two axes, in pixels; the same twice where isotropic.
        rotation: Of the axes, in radians.
        beta: Exponent of generalised Gaussian and plateau kernels.
        cutoff: Of a sinc filter, in radians per pixel; pi keeps all frequencies of an axis.
    """

    family: str
    size: int
    sigma: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    beta: float = 1.0
    cutoff: float = math.pi


@dataclass(frozen=True)
class OrderDraw:
    """One order for one sample.

    Args:
        blur: The kernel, or None.
        scale: Factor on the size.
        mode: How the image is resized.
        noise: Its kind.
        strength: Standard deviation in levels of 255, or the factor on Poisson noise.
        gray: Whether the noise is the same in all channels.
        quality: Of JPEG.
    """

    blur: Blur | None
    scale: float
    mode: Mode
    noise: Literal["gaussian", "poisson"]
    strength: float
    gray: bool
    quality: int


@dataclass(frozen=True)
class Draw:
    """The degradation of one sample.

    Args:
        plain: Whether it is reduced by bicubic interpolation, and nothing else but `lens` applies.
        lens: The blur before a plain reduction, or None.
        first: The first order.
        second: The second; its JPEG is the last step or the one before it.
        sinc: The last filter, or None.
        mode: How the image is brought to its size in the end.
        jpeg_last: Whether JPEG follows the last resize and filter, or comes before them.
    """

    plain: bool
    lens: Blur | None
    first: OrderDraw
    second: OrderDraw
    sinc: Blur | None
    mode: Mode
    jpeg_last: bool


def draw(settings: Degradation, seed: int, index: int) -> Draw:
    """The degradation of one sample, a function of (seed, index)."""
    u = iter(numpy_rng(seed, "degrade", index).random(_NUM_DRAWS).tolist())
    first, second = (_order(u, order, settings) for order in (settings.first, settings.second))
    plain = next(u) < settings.no_degradation_prob
    sinc = _sinc(u, settings.kernel_size)
    has_sinc = next(u) < settings.final_sinc_prob
    mode = MODES[int(next(u) * len(MODES))]
    jpeg_last = next(u) < 0.5
    lens = _lens(u, settings)
    return Draw(plain, lens, first, second, sinc if has_sinc else None, mode, jpeg_last)


def _between(u: float, low: float, high: float) -> float:
    return low + u * (high - low)


def _pick(u: float, shares: Mapping[str, float]) -> str:
    """The key whose stretch of [0, 1) holds `u`."""
    reached = 0.0
    for key, share in shares.items():
        reached += share
        if u < reached:
            return key
    return max(shares, key=lambda key: shares[key])  # shares that sum to a little below 1


def _size(u: float, sizes: Range) -> int:
    """An odd number of the range, each as likely."""
    smallest, largest = int(sizes[0]), int(sizes[1])
    return smallest + 2 * int(u * ((largest - smallest) // 2 + 1))


def _beta(u: Iterator[float], limits: Range) -> float:
    below, value = next(u) < 0.5, next(u)
    return _between(value, limits[0], 1) if below else _between(value, 1, limits[1])


def _sinc(u: Iterator[float], sizes: Range) -> Blur:
    """The last filter, whose cutoff is at least a third of pi."""
    size = _size(next(u), sizes)
    return Blur("sinc", size, cutoff=_between(next(u), math.pi / 3, math.pi))


def _lens(u: Iterator[float], settings: Degradation) -> Blur | None:
    """A Gaussian, round or a little flattened, in a kernel of the largest size."""
    blurs, width, ratio = next(u) < settings.lens_prob, next(u), next(u)
    sigma = _between(width, *settings.lens_sigma)
    rotation = _between(next(u), -math.pi, math.pi)
    if not blurs:
        return None
    axes = (sigma, sigma * _between(ratio, _FLATTEST, 1))
    return Blur("aniso", settings.kernel_size[1], axes, rotation)


def _blur(u: Iterator[float], order: Order, sizes: Range) -> Blur | None:
    blurs, is_sinc = next(u) < order.blur_prob, next(u) < order.sinc_prob
    size = _size(next(u), sizes)
    lowest = math.pi / 3 if size < _SMALL_KERNEL else math.pi / 5
    cutoff = _between(next(u), lowest, math.pi)
    family = _pick(next(u), order.kernel_prob)
    first, second = (_between(next(u), *order.blur_sigma) for _ in range(2))
    rotation = _between(next(u), -math.pi, math.pi)
    betas = {"generalized": _beta(u, order.betag_range), "plateau": _beta(u, order.betap_range)}
    if not blurs:
        return None
    if is_sinc:
        return Blur("sinc", size, cutoff=cutoff)
    beta = betas.get(family.split("_")[0], 1.0)
    if family.endswith("aniso"):
        return Blur(family, size, (first, second), rotation, beta)
    return Blur(family, size, (first, first), beta=beta)


def _scale(u: Iterator[float], order: Order) -> float:
    kind, value = _pick(next(u), order.resize_prob), next(u)
    smallest, largest = order.resize_range
    factors = {"up": _between(value, 1, largest), "down": _between(value, smallest, 1), "keep": 1.0}
    return factors[kind]


def _order(u: Iterator[float], order: Order, settings: Degradation) -> OrderDraw:
    blur = _blur(u, order, settings.kernel_size)
    scale, mode = _scale(u, order), MODES[int(next(u) * len(MODES))]
    gaussian = next(u) < order.gaussian_noise_prob
    sigma = _between(next(u), *order.noise_range)
    factor = _between(next(u), *order.poisson_scale_range)
    gray = next(u) < order.gray_noise_prob
    lowest, highest = order.jpeg_range
    quality = lowest + int(next(u) * (highest - lowest + 1))
    noise: Literal["gaussian", "poisson"] = "gaussian" if gaussian else "poisson"
    return OrderDraw(blur, scale, mode, noise, sigma if gaussian else factor, gray, quality)
