"""The library of variants: each row is a smaller block that may stand at a stage (Eq. 6).

A variant that computes fewer residual blocks than the teacher still makes and takes every skip: a
block that does not compute keeps only its shortcut, the 1x1 convolution (or the identity, where
the width does not change) that the teacher's residual block adds its result to.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tocsr.errors import TocsrError, did_you_mean

if TYPE_CHECKING:
    from tocsr.models.stages import Stage, StageKind

TEACHER = "teacher"  # the name of the identity row: the teacher's own block
WINDOW = 16  # latent pixels along a side: 128 pixels of the image


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row.

    Args:
        num_blocks: Residual blocks that compute, at most.
        conv: Their 3x3 convolutions: full, through 1/4 of the channels, or depthwise-separable.
        inner: Divides the channels between a block's two convolutions, 1, 2 or 4: pruning that
            leaves the stage's shapes alone.
        attention: After each computing block: none, self-attention alone, or the teacher's own
            transformer (self, cross and feed-forward).
        reach: How far self-attention sees: 0 for the whole image, or the side of the square
            windows that it stays in, in latent pixels.
        sampler: Change of resolution at the end: the teacher's 3x3 convolution, a
            depthwise-separable one, or a 1x1 convolution on averaged or repeated pixels.
        norm: As in the base network, over groups of channels of the whole image, or per pixel.

    Raises:
        ValueError: A reach without self-attention, or an `inner` that is not listed.
    """

    num_blocks: int
    conv: Literal["full", "bottleneck", "separable"] = "full"
    inner: Literal[1, 2, 4] = 1
    attention: Literal["none", "self", "teacher"] = "none"
    reach: int = 0
    sampler: Literal["full", "separable", "pointwise"] = "full"
    norm: Literal["base", "group", "pixel"] = "base"

    def __post_init__(self) -> None:
        if self.inner not in (1, 2, 4):
            raise ValueError(f"inner must be 1, 2 or 4, got {self.inner}")
        if self.reach < 0 or (self.reach and self.attention != "self"):
            raise ValueError(
                "reach must be at least 0, and is for self-attention alone: got "
                f"{self.reach} with attention {self.attention}"
            )

    @property
    def name(self) -> str:
        """A unique name made of the fields, such as `r1-full-inner2-self16-pointwise`."""
        parts = [f"r{self.num_blocks}", self.conv]
        if self.inner > 1:
            parts.append(f"inner{self.inner}")
        if self.attention != "none":
            parts.append(f"{self.attention}{self.reach or ''}")
        parts.append(self.sampler)
        if self.norm != "base":
            parts.append(self.norm)
        return "-".join(parts)

    def at(self, stage: Stage, norm: Literal["group", "pixel"]) -> Variant:
        """The row with every field that makes no difference at a stage set to its default.

        Rows that are equal here are the same block.

        Args:
            stage: Where it is to stand.
            norm: The base network's normalisation.
        """
        sampler = self.sampler if stage.resamples else "full"
        if not self.num_blocks:
            return Variant(num_blocks=0, sampler=sampler)
        most = self.num_blocks if stage.kind == "bottleneck" else stage.num_blocks
        own = "base" if self.norm == norm else self.norm
        return replace(self, num_blocks=min(self.num_blocks, most), sampler=sampler, norm=own)


_ENCODER = (
    Variant(num_blocks=2),
    Variant(num_blocks=2, inner=2),
    Variant(num_blocks=1, attention="teacher"),
    Variant(num_blocks=1, attention="self"),
    Variant(num_blocks=1, attention="self", reach=WINDOW),
    Variant(num_blocks=1),
    Variant(num_blocks=1, norm="pixel"),
    Variant(num_blocks=1, conv="bottleneck", sampler="pointwise"),
    Variant(num_blocks=1, conv="separable", sampler="separable"),
    Variant(num_blocks=0, sampler="pointwise"),
)
_BOTTLENECK = (
    Variant(num_blocks=2),
    Variant(num_blocks=1),
    Variant(num_blocks=1, attention="self", sampler="separable"),
    Variant(num_blocks=1, inner=4, sampler="separable"),
    Variant(num_blocks=1, conv="bottleneck", sampler="separable"),
    Variant(num_blocks=0, sampler="pointwise"),
)
_DECODER = (
    Variant(num_blocks=3),
    Variant(num_blocks=3, inner=2),
    Variant(num_blocks=2),
    Variant(num_blocks=1, attention="teacher"),
    Variant(num_blocks=1, attention="self", reach=WINDOW, sampler="separable"),
    Variant(num_blocks=1),
    Variant(num_blocks=1, norm="pixel"),
    Variant(num_blocks=1, sampler="separable"),
    Variant(num_blocks=2, inner=4, sampler="separable"),
    Variant(num_blocks=2, conv="bottleneck", sampler="separable"),
    Variant(num_blocks=1, conv="separable", sampler="pointwise"),
    Variant(num_blocks=0, sampler="pointwise"),
)
LIBRARY: dict[StageKind, tuple[Variant, ...]] = {
    "down": _ENCODER,
    "bottleneck": _BOTTLENECK,
    "up": _DECODER,
}


def find_variant(kind: StageKind, name: str) -> Variant:
    """The row called `name` among those for stages of this kind.

    Raises:
        TocsrError: No such row.
    """
    rows = {variant.name: variant for variant in LIBRARY[kind]}
    if name not in rows:
        raise TocsrError(f"no variant '{name}' for {kind} stages", did_you_mean(name, rows))
    return rows[name]
