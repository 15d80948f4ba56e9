"""The stages of a U-Net: named blocks with named inputs and outputs.

A stage is a contract: the shapes it takes and the shapes it gives, skips included. Whatever keeps
the contract may stand there. With SD 1.5's four levels the seven stages are (docs/deviations.md)

    E1 E2 E3 = down0 down1 down2      B = down3 + mid + up0      D3 D2 D1 = up1 up2 up3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

StageKind = Literal["down", "bottleneck", "up"]


@dataclass(frozen=True)
class Port:
    """A tensor between stages.

    Args:
        name: `conv_in` or `<stage>.<output>`.
        channels: Its channels.
        stride: Latent pixels per pixel of it, along one side.
    """

    name: str
    channels: int
    stride: int

    def shape(self, batch: int, side: int) -> tuple[int, int, int, int]:
        """Its shape for a square latent of `side` pixels."""
        return (batch, self.channels, side // self.stride, side // self.stride)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Args:
        name: E1.., B, ..D1.
        kind: What the teacher's block there is.
        inputs: First the features, then the skips in the order in which they were made.
        outputs: First the skips in the order in which they are made, last the features.
        num_blocks: Residual blocks the teacher's block passes a skip to or takes one from.
        resamples: Whether the stage changes the resolution at its end.
    """

    name: str
    kind: StageKind
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    num_blocks: int
    resamples: bool


def unet_stages(base: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The stages of a U-Net, in the order in which they are computed.

    Args:
        base: Configuration of a `UNet2DConditionModel`; `block_out_channels` and
            `layers_per_block` are read.
    """
    widths, layers = list(base["block_out_channels"]), int(base["layers_per_block"])
    depth = len(widths) - 1
    entry = [Port("conv_in", widths[0], 1)]  # what enters encoder level i
    encoder: list[Stage] = []
    skips: list[tuple[Port, ...]] = []
    for level in range(depth):
        name = f"E{level + 1}"
        made = tuple(Port(f"{name}.skip{j}", widths[level], 2**level) for j in range(layers))
        out = Port(f"{name}.out", widths[level], 2 ** (level + 1))
        encoder.append(Stage(name, "down", (entry[level],), (*made, out), layers, True))
        entry.append(out)
        skips.append(made)

    below = Port("B.out", widths[depth], 2 ** (depth - 1))
    bottleneck = Stage("B", "bottleneck", (entry[depth],), (below,), layers + 1, True)

    decoder: list[Stage] = []
    for level in reversed(range(depth)):
        name = f"D{level + 1}"
        inputs = (below, entry[level], *skips[level])
        below = Port(f"{name}.out", widths[level], 2 ** max(level - 1, 0))
        decoder.append(Stage(name, "up", inputs, (below,), layers + 1, level > 0))
    return (*encoder, bottleneck, *decoder)
