"""What is written down of a metric, and of the files it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from tocsr.deploy.metrics.subject import Subject


@dataclass(frozen=True)
class Weights:
    """A file that a metric reads.

    Args:
        file: Its name in the folder of weights.
        sha256: Of its bytes, or as much of it as the publisher says.
        source: Where it comes from: a command, or what to do.
    """

    file: str
    sha256: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.

    Args:
        title: What tables call it.
        higher_is_better: Its direction.
        unit: Of its values, empty for a number.
        span: Its range, in words.
        digits: Behind the point, in tables.
        protocol: How it is computed, in a sentence that another could compute it by.
        measure: From an image and its reference to the value, where no file is needed.
        weights: The files it needs.
        load: From the places of those files to `measure`.
        load_features: From them to the features (F,) of an image, of a metric of two sets of images
            that is the Frechet distance of their features.
        needs_reference: Whether an image alone cannot be measured.
        pyiqa: Its name in pyiqa, where only that package computes it.
    """

    title: str
    higher_is_better: bool
    unit: str = ""
    span: str
    digits: int = 4
    protocol: str
    measure: Callable[[Subject, Subject], float] | None = None
    weights: tuple[Weights, ...] = ()
    load: Callable[[Sequence[Path]], Callable[[Subject, Subject], float]] | None = None
    load_features: Callable[[Sequence[Path]], Callable[[Subject], Tensor]] | None = None
    needs_reference: bool = True
    pyiqa: str = ""
