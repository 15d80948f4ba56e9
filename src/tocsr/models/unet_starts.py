"""Where the convolutions start that change their width: the U-Net's (paper 3.1, table S4).

The ways are those of `starts`. z_t is a latent and unit noise. A base that knows 4 channels is
shown A z_t, in which the noise is independent and of unit variance again where the rows of A (4, Z)
are orthonormal; its prediction goes back through A^T.

Legend: B batch, Z latent channels, h w latent size.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tocsr.diffusion import NoiseSchedule, add_noise, draws, velocity
from tocsr.models.starts import (
    IMAGES_AT_A_TIME,
    Start,
    channel_map,
    fit_conv_,
    input_of,
    pixel_rows,
    set_conv_,
)
from tocsr.models.vae import Autoencoder, pixels_to_latents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tocsr.models.compact import CompactUNet

_NUM_NOISES = 4  # noises and timesteps drawn for each image


def _convs(end: nn.Module) -> list[nn.Conv2d]:
    return [part for part in end.modules() if isinstance(part, nn.Conv2d)]


def _unit_noise(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows, which turns unit noise into unit noise.

    z_t is a latent and unit noise. A base that knows 4 channels understands A z_t where A noise
    is again independent noise of variance 1, so A A^T must be the identity.
    """
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def latent_matrix(how: str, few: int, latents: list[tuple[Tensor, Tensor]]) -> Tensor:
    """A (few, Z), from the new latent to the base's, with orthonormal rows.

    Args:
        how: The way.
        few: Channels of the base's latent.
        latents: Scaled latents of the same images, the new (B, Z, h, w) and the base's.
    """
    new = torch.cat([pixel_rows(z) for z, _ in latents])
    if how == "least-squares":
        old = torch.cat([pixel_rows(z) for _, z in latents])
        return _unit_noise(torch.linalg.lstsq(new, old).solution.T)
    return _unit_noise(channel_map(how, few, new.shape[1]).T.to(new.device))


def _pointwise(matrix: Tensor, conv: nn.Conv2d) -> Tensor:
    """A matrix (n, m) as the first n rows of a convolution's weight; inputs beyond m have none."""
    rows, columns = matrix.shape
    weight = torch.zeros(rows, *conv.weight.shape[1:], dtype=matrix.dtype, device=matrix.device)
    weight[:, :columns, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = matrix
    return weight


def _start_conv_in_(unet: CompactUNet, base: CompactUNet, matrix: Tensor, rest: bool) -> None:
    """The base's first convolution behind A; v1 and v3 have it already and A comes before it."""
    (own,), (*before, last) = _convs(base.conv_in), _convs(unet.conv_in)
    zeros, identity = matrix.new_zeros(len(matrix)), torch.eye(len(matrix)).to(matrix)
    for i, conv in enumerate(before):
        set_conv_(conv, _pointwise(identity if i else matrix, conv), zeros)
    if before:
        return
    weight = torch.einsum("omkl,mz->ozkl", own.weight.double(), matrix)
    if rest:
        unseen = torch.eye(matrix.shape[1]).to(matrix) - matrix.T @ matrix
        weight += torch.einsum("oykl,yz->ozkl", last.weight.double(), unseen)
    set_conv_(last, weight, own.get_parameter("bias"))


def _start_conv_out_(unet: CompactUNet, base: CompactUNet, matrix: Tensor) -> None:
    """The base's last convolution and A^T behind it; v3 has the former already."""
    (own,), (first, *after) = _convs(base.conv_out), _convs(unet.conv_out)
    zeros, identity = matrix.new_zeros(matrix.shape[1]), torch.eye(len(matrix)).to(matrix)
    for conv in after[:-1]:
        set_conv_(conv, _pointwise(identity, conv), zeros[: len(matrix)])
    if after:
        set_conv_(after[-1], _pointwise(matrix.T, after[-1]), zeros)
        return
    weight = torch.einsum("mokl,mz->zokl", own.weight.double(), matrix)
    set_conv_(first, weight, matrix.T @ own.get_parameter("bias").double())


def _denoising_examples(
    unet: CompactUNet, latents: list[Tensor], seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """What reaches the U-Net's last convolution, and what Eq. 5 wants it to give."""
    schedule, last = NoiseSchedule(), _convs(unet.conv_out)[-1]
    for repeat in range(_NUM_NOISES):
        for i, clean in enumerate(latents):
            first = (repeat * len(latents) + i) * IMAGES_AT_A_TIME
            noise, t = draws(schedule, clean, seed, list(range(first, first + len(clean))))
            noisy = add_noise(schedule, clean, noise, t)
            wanted = {"noise": noise, "velocity": velocity(schedule, clean, noise, t)}
            given = input_of(last, partial(unet.forward, noisy, t))
            yield given, wanted.get(unet.config.prediction, clean)


@torch.no_grad()
def start_unet_(
    how: Start,
    unet: CompactUNet,
    base: CompactUNet,
    vae: Autoencoder,
    base_vae: Autoencoder,
    images: Tensor,
    seed: int,
) -> None:
    """Starts the ends of a U-Net that was rebuilt for other latents.

    The base sees A z_t, in which the noise has unit variance again, and so is as noisy as what it
    was trained on. Four channels say nothing of twelve of sixteen noises, whose mean square alone
    is 0.75. So with `least-squares` v2 keeps its constructed weights for what A does not see, and
    the last convolution is fitted to Eq. 5 on whatever reaches it.

    Args:
        how: The way.
        unet: As `rebuilt` made it, without a condition.
        base: The U-Net it was made from.
        vae: Whose latents the U-Net is to denoise.
        base_vae: Whose latents the base denoises; only `least-squares` asks it.
        images: (B, 3, H, W) in [-1, 1], of a size that both U-Nets take.
        seed: Of noises and timesteps.
    """
    if how == "random" or unet.latent_channels == base.latent_channels:
        return
    latents = [
        (pixels_to_latents(vae, x), pixels_to_latents(base_vae, x))
        for x in images.split(IMAGES_AT_A_TIME)
    ]
    matrix = latent_matrix(how, base.latent_channels, latents)
    _start_conv_in_(unet, base, matrix, rest=how == "least-squares")
    _start_conv_out_(unet, base, matrix)
    if how == "least-squares":
        examples = _denoising_examples(unet, [z for z, _ in latents], seed)
        fit_conv_(_convs(unet.conv_out)[-1], examples)
