"""Structural similarity of luma."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tocsr.config import require
from tocsr.deploy.metrics.color import luma_pair

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 11
SIGMA = 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # (K L)^2


def ssim_y(image: NDArray[np.uint8], reference: NDArray[np.uint8], border: int = 0) -> float:
    """SSIM-Y, the mean over windows of the similarity of two lumas; 1 is equal.

    SSIM = (2 mu_x mu_y + C1)(2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1)(s_x^2 + s_y^2 + C2))

    Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE TIP 13(4), 2004, as the authors' MATLAB code has it: an 11 x 11
    Gaussian window of sigma 1.5 with weights of sum 1, K1 = 0.01, K2 = 0.03, L = 255, only windows
    that lie inside the image, no downsampling.

    Args:
        image: uint8 (H, W, 3), RGB.
        reference: The same.
        border: Pixels left out on each side first.

    Returns:
        In [-1, 1].

    Raises:
        TocsrError: The images are not a pair, or smaller than a window.
    """
    x, y = luma_pair(image, reference, border)
    require(
        min(x.shape) >= WINDOW, f"SSIM needs at least {WINDOW} x {WINDOW} pixels, got {x.shape}"
    )
    mu_x, mu_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mu_x**2
    var_y = _window_mean(y * y) - mu_y**2
    cov = _window_mean(x * y) - mu_x * mu_y
    similarity = ((2 * mu_x * mu_y + C1) * (2 * cov + C2)) / (
        (mu_x**2 + mu_y**2 + C1) * (var_x + var_y + C2)
    )
    return float(similarity.mean())


def _window_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Gaussian mean of each window that lies inside, (H, W) -> (H - 10, W - 10)."""
    place = np.arange(WINDOW) - WINDOW // 2
    kernel = np.exp(-(place**2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    for _ in range(2):  # along one side, then, transposed, along the other
        length = values.shape[0] - WINDOW + 1
        shifted = (weight * values[i : i + length] for i, weight in enumerate(kernel))
        values = sum(shifted, np.zeros((length, values.shape[1]))).T
    return values
