"""The images of an evaluation that are worth looking at, and how each system made them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from PIL import Image

from tocsr.deploy.contact_sheet import middle
from tocsr.deploy.preview import HEADINGS, enlarged
from tocsr.restoration import BICUBIC

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from tocsr.deploy.systems import System

MAX_SIDE = 1024  # pixels of a picture; of a larger image its middle is shown


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Images by how well a system does on them.

    Args:
        metric: Whose values they are ranked by.
        system: Whose.
        worst: The worst first.
        median: One with as many worse as better ones.
        best: The best first; none that is among the worst.
    """

    metric: str
    system: str
    worst: list[str]
    median: str
    best: list[str]

    @property
    def names(self) -> list[str]:
        """Each once, from both ends: worst, best, next to worst and so on, at last the median."""
        ends = [name for pair in zip_longest(self.worst, self.best) for name in pair if name]
        return list(dict.fromkeys([*ends, self.median]))


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What is shown of the chosen images.

    Args:
        chosen: The images.
        of: Of each, its pictures by column: low-resolution image, systems, reference; all of one
            part of the image, at most `MAX_SIDE` x `MAX_SIDE`.
    """

    chosen: Chosen
    of: dict[str, dict[str, Image.Image]]


def choose(result: Mapping[str, Any], metric: str, num_shown: int) -> Chosen:
    """The images on which the first system does worst and best.

    An image without a value, NaN, counts as the worst: it is what one wants to look at.

    Args:
        result: Of an evaluation.
        metric: One of its metrics; empty for its first.
        num_shown: How many of the worst, and of the best; of few images half are each.
    """
    metric = metric or next(iter(result["metrics"]))
    system, row = next(iter(result["systems"].items()))
    sign = 1 if result["metrics"][metric]["higher_is_better"] else -1
    goodness = {
        name: -math.inf if math.isnan(float(value)) else sign * float(value)
        for name, value in zip(result["images"], row["values"][metric], strict=True)
    }
    ranked = sorted(goodness, key=goodness.__getitem__)
    count = min(num_shown, (len(ranked) + 1) // 2)
    return Chosen(
        metric=metric,
        system=system,
        worst=ranked[:count],
        median=ranked[len(ranked) // 2],
        best=ranked[count:][::-1][:count],
    )


def make_pictures(
    chosen: Chosen,
    originals: Callable[[str], tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]],
    systems: Mapping[str, System],
    factor: int,
) -> Pictures:
    """Makes the chosen images once more, since no others are kept while an evaluation runs.

    Args:
        chosen: The images.
        originals: From a name to the reference and the low-resolution image, where there are any.
        systems: By label.
        factor: Between the sides of the two.
    """
    pictures = {}
    for name in chosen.names:
        hr, lr = originals(name)
        columns = enlarged(Image.fromarray(lr), factor) if lr is not None else {}
        if BICUBIC in systems:
            columns.pop(HEADINGS[1], None)  # one column is enough
        columns |= {label: Image.fromarray(make(name, lr)) for label, make in systems.items()}
        if hr is not None:
            columns[HEADINGS[2] if HEADINGS[2] not in systems else "reference"] = Image.fromarray(
                hr
            )
        pictures[name] = {title: middle(image, MAX_SIDE) for title, image in columns.items()}
    return Pictures(chosen=chosen, of=pictures)
