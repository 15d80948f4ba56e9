"""The ends of the U-Net, widened from 4 to Z latent channels (paper 3.1, table S4)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import nn

from tocsr.errors import TocsrError, did_you_mean

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

# Channels between Z and the U-Net's width, for conv_in (Z -> ... -> width) and for conv_out. v2
# (chosen by the paper) makes one new convolution at each end, v1 and v3 squeeze through the 4
# channels of the base.
ADAPTERS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "v1": ((4,), ()),
    "v2": ((), ()),
    "v3": ((8, 4), (4, 8)),
}


def _chain(channels: list[int]) -> nn.Module:
    convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels)]
    return convs[0] if len(convs) == 1 else nn.Sequential(*convs)


def first_and_last(end: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The first and the last convolution of an end, the same one where there is one alone."""
    return (end[0], end[-1]) if isinstance(end, nn.Sequential) else (end, end)


def latent_adapter(
    unet: UNet2DConditionModel, latent_channels: int, condition_channels: int, name: str
) -> tuple[nn.Module, nn.Module]:
    """The first and last convolution for Z latent channels.

    v1: 16->4, 4->320 and 320->16; v2: 16->320 and 320->16; v3: 16->8, 8->4, 4->320 and 320->4,
    4->8, 8->16, all 3x3. The condition's channels join at the very first convolution. So v1 and v3
    let 4 numbers a pixel through. What they drop of the noise is independent of what they keep, so
    their expected loss (Eq. 5) is at least 12/16 = 0.75; the paper's is 0.76.

    Raises:
        TocsrError: No adapter of that name.
    """
    if name not in ADAPTERS:
        raise TocsrError(f"no latent adapter '{name}'", did_you_mean(name, ADAPTERS))
    width = unet.config.block_out_channels[0]
    before, after = ADAPTERS[name] if latent_channels != unet.config.in_channels else ((), ())
    first = [latent_channels + condition_channels, *before, width]
    return _chain(first), _chain([width, *after, latent_channels])
