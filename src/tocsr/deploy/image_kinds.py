"""Images as Python programs hold them, upscaled as levels and given back as the same kind."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tocsr.deploy.image_files import picture_of, pillow_of
from tocsr.deploy.resizing import resized, without_hidden_colors
from tocsr.errors import TocsrError

# uint8 or uint16 (H, W, 3) -> (n H, n W, 3) of the same type
Upscale = Callable[[NDArray[Any]], NDArray[Any]]


def upscaled_kind(image: Any, upscale: Upscale) -> Any:
    """An image of any kind, upscaled.

    Args:
        image: A Pillow image; or a floating-point torch tensor (3, H, W) or (B, 3, H, W) in [0, 1].
        upscale: What makes levels larger.

    Returns:
        The same kind: a Pillow image, upright and with its profile, gray where it was gray and its
        transparency by bicubic interpolation; or a tensor of the same type on the same device.

    Raises:
        TocsrError: It is of another kind.
    """
    if isinstance(image, Image.Image):
        return _upscaled_pillow(image, upscale)
    torch = sys.modules.get("torch")  # who holds a tensor has imported it
    if torch and isinstance(image, torch.Tensor):
        return _upscaled_tensor(image, upscale)
    raise TocsrError(
        f"an image must be a NumPy array, a Pillow image or a torch tensor, got {type(image)}"
    )


def _upscaled_pillow(image: Image.Image, upscale: Upscale) -> Image.Image:
    picture = picture_of(image, "the image")
    if picture.alpha is None:
        made = replace(picture, rgb=upscale(picture.rgb))
    else:
        rgb = upscale(without_hidden_colors(picture.rgb, picture.alpha))
        size = (rgb.shape[0], rgb.shape[1])
        made = replace(
            picture, rgb=rgb, alpha=resized(picture.alpha, size, Image.Resampling.BICUBIC)
        )
    result = pillow_of(made, transparent=True)
    if picture.icc:
        result.info["icc_profile"] = picture.icc
    return result


def _upscaled_tensor(image: Any, upscale: Upscale) -> Any:
    """Through 16 bits: a result is exact to 1 / 131070."""
    fits = image.is_floating_point() and image.dim() in (3, 4) and image.numel() > 0
    if not fits or image.shape[-3] != 3:
        raise TocsrError(
            f"a tensor must be floating-point (3, H, W) or (B, 3, H, W) in [0, 1], got "
            f"{image.dtype} {tuple(image.shape)}"
        )
    values = image.detach().cpu().double().nan_to_num().clamp(0, 1)  # not every device has float64
    levels = (values * 65535).round().numpy().astype(np.uint16)
    each = [upscale(one.transpose(1, 2, 0)) for one in levels.reshape(-1, *levels.shape[-3:])]
    made = np.stack(each).astype(np.float64).transpose(0, 3, 1, 2) / 65535
    return image.new_tensor(made.reshape(*levels.shape[:-2], *made.shape[-2:]))
