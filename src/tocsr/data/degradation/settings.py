"""What a degradation of second order draws from: the ranges and probabilities of a YAML file.

The method is Real-ESRGAN's (Wang et al. 2021, arXiv 2107.10833). Keys are named as in its published
options, so that a file of ours can be held against one of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from tocsr.config import require
from tocsr.errors import TocsrError, did_you_mean
from tocsr.preset_files import check_keys, merged, read_yaml
from tocsr.restoration import DEGRADATIONS, check_degradation

FAMILIES = (
    "iso",
    "aniso",
    "generalized_iso",
    "generalized_aniso",
    "plateau_iso",
    "plateau_aniso",
)
RESIZES = ("up", "down", "keep")
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Order:
    """One order of the degradation: blur, resize, noise, JPEG.

    Args:
        blur_prob: Probability of a blur at all.
        sinc_prob: Share of the blurs that a sinc filter makes.
        kernel_prob: Shares of the six families of kernels among the others.
        blur_sigma: Standard deviation of a kernel along an axis, in pixels.
        betag_range: Exponent beta of generalised Gaussian kernels, below 1 half of the time.
        betap_range: Exponent beta of plateau kernels, below 1 half of the time.
        resize_prob: Shares of images made larger, smaller, and kept.
        resize_range: The smallest factor of a reduction and the largest of an enlargement.
        gaussian_noise_prob: Share of Gaussian noise; the rest is Poisson noise.
        noise_range: Standard deviation of Gaussian noise, in levels of 255.
        poisson_scale_range: Factor on Poisson noise.
        gray_noise_prob: Share of noise that is the same in all channels.
        jpeg_range: Quality of JPEG, 1 to 100.
    """

    blur_prob: float
    sinc_prob: float
    kernel_prob: Mapping[str, float]
    blur_sigma: Range
    betag_range: Range
    betap_range: Range
    resize_prob: Mapping[str, float]
    resize_range: Range
    gaussian_noise_prob: float
    noise_range: Range
    poisson_scale_range: Range
    gray_noise_prob: float
    jpeg_range: tuple[int, int]

    def __post_init__(self) -> None:
        for name in ("blur_prob", "sinc_prob", "gaussian_noise_prob", "gray_noise_prob"):
            _check_probability(name, getattr(self, name))
        _check_shares("kernel_prob", self.kernel_prob, FAMILIES)
        _check_shares("resize_prob", self.resize_prob, RESIZES)
        for name in ("noise_range", "poisson_scale_range"):
            _check_range(name, getattr(self, name), 0, float("inf"))
        _check_range("blur_sigma", self.blur_sigma, 0.01, float("inf"))
        for name in ("betag_range", "betap_range", "resize_range"):
            low, high = _check_range(name, getattr(self, name), 0.01, float("inf"))
            require(low <= 1 <= high, f"{name} must hold 1, got {low} to {high}")
        _check_range("jpeg_range", self.jpeg_range, 1, 100, whole=True)


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """A degradation of second order.

    Args:
        name: That of its file.
        kernel_size: Smallest and largest side of a kernel in pixels, both odd.
        first: Blur, resize, noise and JPEG at the photo's size.
        second: The same again, at about the size of the result.
        final_sinc_prob: Share of images that get a last sinc filter.
        no_degradation_prob: Share of images that are reduced by bicubic interpolation alone, or
            after a lens's blur.
        lens_prob: Share of those that are blurred first, as lens and sensor do: by a Gaussian
            kernel. Not in Real-ESRGAN's degradation.
        lens_sigma: Its standard deviation along an axis, in pixels of the photo.
    """

    name: str
    kernel_size: tuple[int, int]
    first: Order
    second: Order
    final_sinc_prob: float
    no_degradation_prob: float
    lens_prob: float = 0.0
    lens_sigma: Range = (0.2, 3.0)

    def __post_init__(self) -> None:
        low, high = _check_range("kernel_size", self.kernel_size, 3, 99, whole=True)
        require(low % 2 == high % 2 == 1, f"kernel_size must be odd, got {low} to {high}")
        for name in ("final_sinc_prob", "no_degradation_prob", "lens_prob"):
            _check_probability(name, getattr(self, name))
        _check_range("lens_sigma", self.lens_sigma, 0.01, float("inf"))


def _check_number(name: str, value: Any, low: float, high: float, whole: bool = False) -> None:
    kind = "whole number" if whole else "number"
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    above = f"at least {low:g}" if high == float("inf") else f"in {low:g}..{high:g}"
    require(fits and low <= value <= high, f"{name} must be a {kind} {above}, got {value}")


def _check_probability(name: str, value: Any) -> None:
    _check_number(name, value, 0, 1)


def _check_range(name: str, value: Any, low: float, high: float, whole: bool = False) -> Range:
    two = isinstance(value, tuple) and len(value) == 2
    require(two, f"{name} must be two numbers, [smallest, largest], got {value}")
    for bound in value:
        _check_number(name, bound, low, high, whole)
    require(value[0] <= value[1], f"{name} must rise, got {value[0]} to {value[1]}")
    return value


def _check_shares(name: str, shares: Any, known: tuple[str, ...]) -> None:
    require(isinstance(shares, Mapping), f"{name} must map each of {', '.join(known)} to a share")
    for key, share in shares.items():
        require(key in known, f"{name}: unknown option '{key}'", did_you_mean(str(key), known))
        _check_probability(f"{name}.{key}", share)
    total = sum(shares.values())
    require(abs(total - 1) < 1e-6, f"the shares of {name} must sum to 1, got {total:g}")


def _built(kind: type, values: Any, where: str) -> Any:
    """A dataclass of a mapping in YAML, whose keys are known to be fields.

    Raises:
        TocsrError: It lacks one, a value does not fit, or it is no mapping.
    """
    require(isinstance(values, dict), f"{where} must hold a mapping of options, got {values}")
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    lacking = [name for name in needed if name not in values]
    require(
        not lacking,
        f"{where} must say {', '.join(lacking)}",
        "or begin with `base: mild`, and say what differs",
    )
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TocsrError as error:
        raise TocsrError(f"{where}: {error.message}", error.hint) from error


@lru_cache
def load_degradation(name: str) -> Degradation:
    """A degradation of second order: `hard`, `mild`, or a YAML file of the same keys.

    A file may say `base: NAME` and only what differs from that shipped one. Read once in a process.

    Raises:
        TocsrError: No such file, an unknown or a missing key, or a value that does not fit.
    """
    path = DEGRADATIONS / f"{name}.yaml"
    if not path.is_file():
        check_degradation(name, "degradation")
        path = Path(name)
    values = read_yaml(path)
    if base := values.pop("base", None):
        below = DEGRADATIONS / f"{base}.yaml"
        shipped = [file.stem for file in DEGRADATIONS.glob("*.yaml")]
        require(base in shipped, f"{path}: no base '{base}'", did_you_mean(str(base), shipped))
        values = merged(read_yaml(below), values)
    check_keys(Degradation, values, str(path))
    orders = {
        key: _built(Order, values[key], f"{path}: {key}")
        for key in ("first", "second")
        if key in values
    }
    return _built(Degradation, {**values, **orders, "name": path.stem}, str(path))
