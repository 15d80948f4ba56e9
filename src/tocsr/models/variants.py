"""The library of variants: each row is a smaller block that may stand at a stage (Eq. 6).

A variant that computes fewer residual blocks than the teacher still makes and takes every skip: a
block that does not compute keeps only its shortcut, the 1x1 convolution (or the identity, where
the width does not change) that the teacher's residual block adds its result to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tocsr.errors import TocsrError, did_you_mean

if TYPE_CHECKING:
    from tocsr.models.stages import StageKind

TEACHER = "teacher"  # the name of the identity row: the teacher's own block


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row.

    Args:
        num_blocks: Residual blocks that compute, at most.
        conv: Their 3x3 convolutions: full, through 1/4 of the channels, or depthwise-separable.
        attention: After each computing block: none, self-attention over the whole image, or the
            teacher's own transformer (self, cross and feed-forward).
        sampler: Change of resolution at the end: the teacher's 3x3 convolution, a
            depthwise-separable one, or a 1x1 convolution on averaged or repeated pixels.
        norm: As in the base network, over groups of channels of the whole image, or per pixel.
    """

    num_blocks: int
    conv: Literal["full", "bottleneck", "separable"] = "full"
    attention: Literal["none", "self", "teacher"] = "none"
    sampler: Literal["full", "separable", "pointwise"] = "full"
    norm: Literal["base", "group", "pixel"] = "base"

    @property
    def name(self) -> str:
        """A unique name made of the fields, such as `r1-separable-self-pointwise`."""
        attention = "" if self.attention == "none" else f"-{self.attention}"
        norm = "" if self.norm == "base" else f"-{self.norm}"
        return f"r{self.num_blocks}-{self.conv}{attention}-{self.sampler}{norm}"


# As many rows as keep SD 1.5's seven stages below two million architectures.
_ENCODER = (
    Variant(num_blocks=2),
    Variant(num_blocks=1, attention="teacher"),
    Variant(num_blocks=1, attention="self"),
    Variant(num_blocks=1),
    Variant(num_blocks=1, conv="bottleneck", sampler="pointwise"),
    Variant(num_blocks=1, conv="separable", sampler="separable"),
    Variant(num_blocks=0, sampler="pointwise"),
)
_BOTTLENECK = (
    Variant(num_blocks=2),
    Variant(num_blocks=1),
    Variant(num_blocks=1, conv="bottleneck", sampler="separable"),
    Variant(num_blocks=0, sampler="pointwise"),
)
_DECODER = (
    Variant(num_blocks=3),
    Variant(num_blocks=2),
    Variant(num_blocks=1, attention="teacher"),
    Variant(num_blocks=1),
    Variant(num_blocks=1, sampler="separable"),
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
