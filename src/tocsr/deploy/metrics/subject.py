"""One image under evaluation, with what several metrics need of it computed once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tocsr.config import require
from tocsr.deploy.metrics.color import rgb_to_gray, rgb_to_y

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor


class Subject:
    """An image as metrics see it.

    Args:
        image: uint8 (H, W, 3), RGB, as a file holds it.
        border: Pixels left out on each side.

    Raises:
        TocsrError: Not such an image, or the border leaves nothing of it.
    """

    def __init__(self, image: NDArray[np.uint8], border: int = 0) -> None:
        require(
            image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3,
            f"a metric takes uint8 images (H, W, 3), got {image.dtype} {image.shape}",
        )
        height, width, _ = image.shape
        require(
            0 <= border < (min(height, width) + 1) // 2,
            f"border must be at least 0 and leave a pixel of {(height, width)}, got {border}",
        )
        self.rgb = image[border : height - border, border : width - border]
        self._derived: dict[str, Any] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, without the border."""
        return self.rgb.shape[0], self.rgb.shape[1]

    @cached_property
    def y(self) -> Tensor:
        """Y of Y'CbCr by BT.601, (H, W) in [16, 235], float64, not rounded."""
        return torch.from_numpy(rgb_to_y(self.rgb))

    @cached_property
    def gray(self) -> Tensor:
        """Y of YIQ, (H, W) in [0, 255], float64, not rounded."""
        return torch.from_numpy(rgb_to_gray(self.rgb))

    @cached_property
    def channels(self) -> Tensor:
        """R, G and B, (3, H, W) in [0, 255], float64."""
        return torch.from_numpy(self.rgb.transpose(2, 0, 1).astype(np.float64))

    def derived(self, name: str, make: Callable[[Subject], Any]) -> Any:
        """What `make` makes of this image: made once, and kept under `name`."""
        if name not in self._derived:
            self._derived[name] = make(self)
        return self._derived[name]


def pair(
    image: NDArray[np.uint8], reference: NDArray[np.uint8], border: int = 0
) -> tuple[Subject, Subject]:
    """Two images of one size as subjects.

    Raises:
        TocsrError: They are not uint8 RGB of one size, or the border leaves nothing.
    """
    subjects = Subject(image, border), Subject(reference, border)
    require(
        image.shape == reference.shape,
        f"an image and its reference must have one size, got {image.shape} and {reference.shape}",
    )
    return subjects
