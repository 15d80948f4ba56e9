"""Real-ESRGAN's degradation of second order (Wang et al. 2021, arXiv 2107.10833).

Blur, resize, noise and JPEG, twice; a last resize and sinc filter go before the last JPEG or after
it. Every sample has kernels, sizes, modes and noise of its own, so images are worked on one by one:
then a sample is the same, to the bit, in any batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tocsr.data.degradation.draws import draw
from tocsr.data.degradation.jpeg import jpeg, pillow_jpeg
from tocsr.data.degradation.kernels import blur_images, kernel
from tocsr.data.degradation.noise import add_gaussian_noise, add_poisson_noise
from tocsr.data.degradation.resize import bicubic, resize, scaled
from tocsr.seeding import derive_seed

if TYPE_CHECKING:
    from tocsr.data.degradation.draws import Blur, Draw, OrderDraw
    from tocsr.data.degradation.settings import Degradation


def second_order(
    image: Tensor, factor: int, settings: Degradation, seed: int, index: int
) -> Tensor:
    """x_LR of one image, not rounded yet.

    Args:
        image: (1, 3, H, W) in [0, 1], H and W multiples of `factor`.
        factor: Upscaling factor of the task.
        settings: What to draw from.
        seed: Of the draws and the noise.
        index: The sample's.

    Returns:
        (1, 3, H/f, W/f), about [0, 1].
    """
    chosen = draw(settings, seed, index)
    if chosen.plain:
        return bicubic(_blurred(image, chosen.lens), factor)
    noises = [_generator(image, seed, index, order) for order in (1, 2)]
    size = (image.shape[-2], image.shape[-1])
    result = _blurred_resized_noisy(image, size, chosen.first, noises[0])
    result = _compressed(result, chosen.first)
    size = (size[0] // factor, size[1] // factor)
    result = _blurred_resized_noisy(result, size, chosen.second, noises[1])
    if chosen.jpeg_last:
        return _compressed(_finished(result, size, chosen), chosen.second)
    return _finished(_compressed(result, chosen.second), size, chosen)


def _generator(image: Tensor, seed: int, index: int, order: int) -> torch.Generator:
    """Of the noise of one order; a device's numbers are its own."""
    generator = torch.Generator(image.device)
    return generator.manual_seed(derive_seed(seed, f"degrade noise {order}", index))


def _blurred(image: Tensor, blur: Blur | None) -> Tensor:
    return image if blur is None else blur_images(image, kernel(blur)[None])


def _blurred_resized_noisy(
    image: Tensor, size: tuple[int, int], order: OrderDraw, generator: torch.Generator
) -> Tensor:
    """One order up to its JPEG; `size` is what its scale is relative to."""
    image = resize(_blurred(image, order.blur), scaled(size, order.scale), order.mode)
    add_noise = add_gaussian_noise if order.noise == "gaussian" else add_poisson_noise
    return add_noise(image, order.strength, order.gray, generator)


def _compressed(image: Tensor, order: OrderDraw) -> Tensor:
    """After JPEG: on the CPU through a file, which gives the same and is faster."""
    has_data = type(image) is Tensor  # a plan's has none
    compress = pillow_jpeg if has_data and image.is_cpu else jpeg
    return compress(image.clamp(0, 1), torch.tensor([order.quality]))


def _finished(image: Tensor, size: tuple[int, int], chosen: Draw) -> Tensor:
    """The last resize and filter."""
    return _blurred(resize(image, size, chosen.mode), chosen.sinc)
