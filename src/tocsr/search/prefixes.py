"""Gaps of many candidates: those that begin alike share the stages that they begin with (Eq. 11).

A candidate is computed stage by stage. What its first k stages make depends on its first k choices
alone, its prefix; so that is kept, and the next candidate starts after the longest prefix that is
known. The operations and their operands are those of the assembled network, so the gap is the same
to the last bit.

Not in the paper, which does not say how candidates are evaluated.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from tocsr.models.variants import TEACHER
from tocsr.search.fidelity import Targets, mean_error, squared_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tocsr.models.compact import CompactUNet

Choice: TypeAlias = "Mapping[str, str]"  # stage -> variant, every stage named
Prefix = tuple[str, ...]  # the variants of the first stages
Outputs = list[Tensor]  # what the last of these stages makes; of no stages, conv_in


@dataclass(frozen=True)
class Measured:
    """What was measured of a candidate.

    Args:
        gap: F(a), or the mean over the samples seen so far, where it was abandoned.
        num_samples: Samples that it is the mean of.
    """

    gap: float
    num_samples: int


class PrefixCache:
    """What stages made of one batch, by the prefix that led there.

    The teacher's own prefixes stay; of the others those used last, within a bound. No prefix
    outlives the shorter ones that it starts with, without which it could not be gone on from.

    Args:
        captured: The teacher's outputs by prefix, empty where they were not kept.
        max_bytes: Bound on the memory of all others.
    """

    def __init__(self, captured: Mapping[Prefix, Outputs], max_bytes: float) -> None:
        self.captured, self.max_bytes = captured, max_bytes
        self.recent: OrderedDict[Prefix, Outputs] = OrderedDict()
        self.num_bytes = 0

    def known(self, variants: Prefix) -> list[Outputs]:
        """The outputs along a candidate's way, from `conv_in` on, as far as they are known."""
        found: list[Outputs] = []
        for length in range(len(variants) + 1):
            prefix = variants[:length]
            outputs = self.captured.get(prefix) or self.recent.get(prefix)
            if outputs is None:
                break
            found.append(outputs)
        return found

    def keep_(self, variants: Prefix, way: list[Outputs]) -> None:
        """Keeps the outputs along a candidate's way; drops what was used longest ago.

        The longest prefix comes first, so that it is the first to go.
        """
        for length in range(len(way) - 1, -1, -1):
            prefix = variants[:length]
            if prefix in self.captured:
                continue
            if prefix not in self.recent:
                self.num_bytes += _num_bytes(way[length])
            self.recent[prefix] = way[length]
            self.recent.move_to_end(prefix)
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= _num_bytes(self.recent.popitem(last=False)[1])


def _num_bytes(outputs: Outputs) -> int:
    return sum(tensor.nbytes for tensor in outputs)


class FidelityGap:
    """F(a) of candidates given by their choices (Eq. 11).

    Args:
        teacher: The U-Net with its own block at every stage.
        surrogates: `stage/variant` -> calibrated block.
        targets: The calibration set. A batch that kept the teacher's features also keeps those of
            other prefixes; a batch that did not is computed anew for every candidate.
        cache_mb: Memory of all features, the teacher's counted, in MiB.
    """

    def __init__(
        self,
        teacher: CompactUNet,
        surrogates: Mapping[str, nn.Module],
        targets: list[Targets],
        cache_mb: float = 0,
    ) -> None:
        self.teacher, self.surrogates, self.targets = teacher, surrogates, targets
        self.stages = teacher.stage_table
        with torch.no_grad():
            self.embeddings = [teacher.embed_time(b.timestep, b.noisy) for b in targets]
        kept = sum(1 for batch in targets if batch.features)
        free = cache_mb * 2**20 - sum(batch.features_bytes for batch in targets)
        self.caches = [
            PrefixCache(self._captured(batch), max(free, 0) / kept if batch.features else 0)
            for batch in targets
        ]

    def _captured(self, batch: Targets) -> dict[Prefix, Outputs]:
        if not batch.features:
            return {}
        made = [["conv_in"], *([port.name for port in stage.outputs] for stage in self.stages)]
        return {
            (TEACHER,) * length: [batch.features[name] for name in names]
            for length, names in enumerate(made)
        }

    @torch.no_grad()
    def __call__(self, choice: Choice, abandon_above: float = math.inf) -> Measured:
        """The gap of one candidate.

        Args:
            choice: Stage -> variant, every stage named.
            abandon_above: Stops once the errors so far make it certain that the gap is above this;
                what is reported then is above it too.
        """
        variants = tuple(choice[stage.name] for stage in self.stages)
        errors: list[float] = []
        for index, batch in enumerate(self.targets):
            errors.append(squared_error(self._predict(variants, index), batch))
            if mean_error(errors, len(self.targets)) > abandon_above:
                break
        seen = sum(batch.num_samples for batch in self.targets[: len(errors)])
        return Measured(mean_error(errors, len(errors)), seen)

    def _predict(self, variants: Prefix, index: int) -> Tensor:
        """The assembled network's prediction for one batch, as `CompactUNet.forward` computes it.

        Args:
            variants: Of every stage.
            index: Of the batch.
        """
        unet, batch, cache = self.teacher, self.targets[index], self.caches[index]
        context = None
        if unet.context is not None:
            context = unet.context.to(batch.noisy.dtype).expand(batch.num_samples, -1, -1)
        way = cache.known(variants) or [[unet.conv_in(batch.noisy)]]
        values: dict[str, Tensor] = {"conv_in": way[0][0]}
        for number, (stage, variant) in enumerate(zip(self.stages, variants, strict=True), 1):
            if number == len(way):
                own = variant == TEACHER
                block = (
                    unet.stages[stage.name] if own else self.surrogates[f"{stage.name}/{variant}"]
                )
                inputs = [values[port.name] for port in stage.inputs]
                way.append(block(inputs, self.embeddings[index], context))
            values.update(zip((port.name for port in stage.outputs), way[number], strict=True))
        cache.keep_(variants, way)
        h = way[-1][-1]
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))
