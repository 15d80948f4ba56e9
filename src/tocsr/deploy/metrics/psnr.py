"""Peak signal-to-noise ratio of luma."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tocsr.deploy.metrics.color import luma_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray


def psnr_y(image: NDArray[np.uint8], reference: NDArray[np.uint8], border: int = 0) -> float:
    """PSNR-Y = 10 log10(255^2 / mean((Y - Y_ref)^2)), in dB; higher is better.

    The peak is 255 although Y spans 16..235, as in the super-resolution literature since Timofte
    et al., A+, ACCV 2014.

    Args:
        image: uint8 (H, W, 3), RGB.
        reference: The same.
        border: Pixels left out on each side.

    Returns:
        The ratio; infinite where both lumas are equal.
    """
    y, y_ref = luma_pair(image, reference, border)
    mse = float(np.mean((y - y_ref) ** 2))
    return 10 * math.log10(255**2 / mse) if mse else math.inf
