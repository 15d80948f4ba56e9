"""How far beyond a tile a finished model looks, measured.

By its layers alone a U-Net of three strides sees hundreds of pixels, from most of which next to
nothing arrives. What counts is where the edge of a tile no longer shows in the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from tocsr.models.sr import OneStepGenerator

TOLERANCE = 1 / 255  # half an 8-bit level of images in [-1, 1]
_HALF = 4  # half the length of the measured strip, in multiples of what sizes are padded to


@torch.no_grad()
def measured_reach(generator: OneStepGenerator, tolerance: float = TOLERANCE) -> int:
    """Pixels from a tile's edge beyond which the result is the whole image's, to a tolerance.

    Not in the paper. A strip of random pixels, in which neighbours differ as they seldom do in a
    photo, is computed whole and in two halves, along either side; the reach is the greatest
    distance from the cut at which the two results differ by more. It is a measurement on two
    strips, not a bound.

    Returns:
        0 to four times `pixel_multiple`, which is as far as it looks.
    """
    facts = generator.facts
    generator.eval()
    short, half = facts.pixel_multiple, _HALF * facts.pixel_multiple
    numbers = torch.Generator().manual_seed(0)
    image = 2 * torch.rand(1, 3, short, 2 * half, generator=numbers) - 1
    latent = (side // facts.latent_stride for side in (short, 2 * half))
    noise = torch.randn(1, facts.latent_channels, *latent, generator=numbers)
    wide = (image.to(generator.vae.device), noise.to(generator.vae.device))
    tall = (wide[0].mT, wide[1].mT)
    return max(
        _reach_along(generator, dim, inputs, tolerance) for dim, inputs in ((3, wide), (2, tall))
    )


def _reach_along(
    generator: OneStepGenerator, dim: int, inputs: Sequence[Tensor], tolerance: float
) -> int:
    """The reach along one side of a strip, of its image and its noise."""
    whole = generator(*inputs).chunk(2, dim)
    halves = zip(*(tensor.chunk(2, dim) for tensor in inputs), strict=True)
    reach = 0
    for first, (half, expected) in enumerate(zip(halves, whole, strict=True)):
        error = (generator(*half) - expected).abs().amax(dim=(0, 1, 5 - dim))
        far = torch.nonzero(error > tolerance).flatten()
        if len(far):  # the first half ends at the cut, the second begins there
            reach = max(reach, int(far[-1]) + 1 if first else len(error) - int(far[0]))
    return reach


def measured_halo(generator: OneStepGenerator) -> int:
    """Pixels to compute around a tile's own: twice the reach, in whole `pixel_multiple`.

    Twice, because tiles are blended over the inner half of their halo.
    """
    multiple = generator.facts.pixel_multiple
    return multiple * max(-(-2 * measured_reach(generator) // multiple), 1)
