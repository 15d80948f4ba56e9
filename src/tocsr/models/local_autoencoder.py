"""A light autoencoder of our own. Not in the paper.

Legend: B batch, H W pixels, Z latent channels.
"""

from __future__ import annotations

from diffusers import ConfigMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.models.base import AlignedModel
from tocsr.models.layers import Recomputing

PIXEL_SHUFFLE = 4  # its first layers work at 1/4 of the resolution


class _Block(nn.Module):
    """Two 3x3 convolutions added to their input; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def _blocks(channels: int, num: int) -> list[nn.Module]:
    return [_Block(channels) for _ in range(num)]


class _Layers(Recomputing, nn.Sequential):
    """Layers one after another; the residual blocks may be recomputed in the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = self.recomputed(layer, x) if isinstance(layer, _Block) else layer(x)
        return x


class OutputLayers(nn.Module):
    """Layers at full resolution after a decoder, added to what it made; start as the identity.

    Not in the paper. A decoder that ends by giving each of its pixels' channels a place of their
    own makes a pattern on its grid more easily than detail. What these layers do is the same at
    every pixel, so whatever sharpens by them alone brings no grid.

    Args:
        width: Channels.

    Shape:
        (B, 3, H, W) -> (B, 3, H, W); a pixel sees 9 x 9.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.block = _Block(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_out(F.silu(self.block(self.conv_in(x))))


class LocalAutoencoder(AlignedModel, ConfigMixin):
    """A light autoencoder without normalisation or attention: f = 8, work at 1/4 and 1/8 only.

    Not in the paper: SD's autoencoder spends nine tenths of the whole model's operations at full
    resolution (tocsr profile --preset paper). Pixel-unshuffle by 4, residual blocks, and back.

    Args:
        latent_channels: Z.
        widths: Channels at 1/4 and at 1/8 of the resolution.
        num_encoder_blocks: The encoder's residual blocks at each of the two resolutions.
        num_decoder_blocks: The decoder's.
        output_width: Channels of the decoder's `OutputLayers`; 0 for none.
        scaling_factor: Scale of the latents, 1 / standard deviation.
        shift_factor: Shift of the latents, their mean.

    Shape:
        encode: (B, 3, H, W) in [-1, 1] -> (B, Z, H/8, W/8), unscaled; decode is its inverse.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        widths: tuple[int, int] = (64, 128),
        num_encoder_blocks: int = 2,
        num_decoder_blocks: int = 2,
        output_width: int = 0,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ) -> None:
        super().__init__()
        fine, coarse = widths
        pixels = 3 * PIXEL_SHUFFLE**2
        self.encoder = _Layers(
            nn.PixelUnshuffle(PIXEL_SHUFFLE),
            nn.Conv2d(pixels, fine, 3, padding=1),
            *_blocks(fine, num_encoder_blocks),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine, coarse, 1),
            *_blocks(coarse, num_encoder_blocks),
        )
        self.conv_out = nn.Conv2d(coarse, latent_channels, 3, padding=1)
        self.conv_in = nn.Conv2d(latent_channels, coarse, 3, padding=1)
        self.decoder = _Layers(
            *_blocks(coarse, num_decoder_blocks),
            nn.Conv2d(coarse, 4 * fine, 1),
            nn.PixelShuffle(2),
            *_blocks(fine, num_decoder_blocks),
            nn.Conv2d(fine, pixels, 3, padding=1),
            nn.PixelShuffle(PIXEL_SHUFFLE),
        )
        self.output = OutputLayers(output_width) if output_width else nn.Identity()

    def encode(self, x: Tensor) -> Tensor:
        """E(x), unscaled."""
        return self.conv_out(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """D(z) of an unscaled latent."""
        return self.output(self.decoder(self.conv_in(z)))

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction D(E(x))."""
        return self.decode(self.encode(x))
