"""The library of a U-Net: which variants each stage may take, and what each of them costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tocsr.models.compact import CompactUNet, num_params
from tocsr.models.cost import Cost, count_macs, on_meta, total, unet_cost
from tocsr.models.surrogates import SurrogateStage, is_local
from tocsr.models.vae import LATENT_STRIDE
from tocsr.models.variants import LIBRARY, TEACHER, find_variant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from tocsr.models.stages import Stage
    from tocsr.models.variants import Variant


def _without_data(stage: Stage, variant: Variant, teacher: CompactUNet) -> SurrogateStage:
    with torch.device("meta"):
        return SurrogateStage(stage, variant, teacher.facts)


def surrogate_library(teacher: CompactUNet, local_only: bool = False) -> dict[str, list[str]]:
    """B_i for every stage: the names of its variants, the identity row first (Eq. 6).

    A row counts where it has fewer parameters than the teacher's block and is not another row that
    works out alike at this stage.

    Args:
        teacher: The U-Net whose stages are to be replaced.
        local_only: Keeps only rows whose receptive field is bounded; the identity row may go too.
    """
    library = {}
    for stage in teacher.stage_table:
        own = teacher.stages[stage.name]
        most = num_params(own)
        names = [TEACHER] if is_local(own) or not local_only else []
        different = {row.at(stage, teacher.facts["norm"]): row for row in LIBRARY[stage.kind][::-1]}
        for row in LIBRARY[stage.kind]:
            if row not in different.values():  # an earlier row is the same here
                continue
            block = _without_data(stage, row, teacher)
            if num_params(block) < most and (is_local(block) or not local_only):
                names.append(row.name)
        library[stage.name] = names
    return library


def block_macs(block: nn.Module, stage: Stage, teacher: CompactUNet, pixels: int) -> int:
    """Multiply-accumulates of one block at a stage for an image of `pixels` x `pixels`."""
    block, side = on_meta(block), pixels // LATENT_STRIDE
    inputs = [torch.empty(port.shape(1, side), device="meta") for port in stage.inputs]
    width = 4 * teacher.facts["block_out_channels"][0]
    temb = torch.empty(1, width, device="meta")
    context = None
    if tokens := teacher.config.num_context_tokens:
        context = torch.empty(1, tokens, teacher.facts["cross_attention_dim"], device="meta")
    return count_macs(lambda: block(inputs, temb, context))


@dataclass(frozen=True)
class LibraryCosts:
    """What every block of a library costs; a candidate costs the sum (Eq. 10, and GMACs alike).

    Args:
        stages: Stage -> variant -> the block's cost.
        rest: What no choice changes: the ends of the U-Net and the time embedding.
    """

    stages: dict[str, dict[str, Cost]]
    rest: Cost

    @property
    def num_candidates(self) -> int:
        """How many architectures there are."""
        return math.prod(len(rows) for rows in self.stages.values())

    def of(self, candidate: Mapping[str, str]) -> Cost:
        """The cost of a decision vector, stage name -> variant name, every stage named."""
        blocks = [rows[candidate[stage]] for stage, rows in self.stages.items()]
        return total([*blocks, self.rest])


def library_costs(
    teacher: CompactUNet, library: Mapping[str, list[str]], pixels: int
) -> LibraryCosts:
    """Parameters and GMACs of every variant, for an image of `pixels` x `pixels`.

    Args:
        teacher: The U-Net, with data or on the meta device.
        library: Stage -> the names of its variants.
        pixels: Side of the image.
    """
    teacher_macs, stages = 0, dict[str, dict[str, Cost]]()
    for stage in teacher.stage_table:
        own = teacher.stages[stage.name]
        teacher_macs += (macs := block_macs(own, stage, teacher, pixels))
        stages[stage.name] = rows = {}
        for name in library[stage.name]:
            if name == TEACHER:
                rows[name] = Cost(name, num_params(own), macs)
            else:
                block = _without_data(stage, find_variant(stage.kind, name), teacher)
                rows[name] = Cost(
                    name, num_params(block), block_macs(block, stage, teacher, pixels)
                )
    whole = unet_cost(teacher, pixels)
    own_params = sum(num_params(block) for block in teacher.stages.values())
    rest = Cost("rest", whole.params - own_params, whole.macs - teacher_macs)
    return LibraryCosts(stages, rest)
