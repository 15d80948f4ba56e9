"""The training of a group of surrogates: one pass of the teacher a step, then each one's own step.

Not in `train.loop.fit`, whose processes share one training: here each has surrogates of its own.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tocsr.data.images import PhotoCrops, batches
from tocsr.seeding import derive_seed
from tocsr.train.features import LeftOut, measured_losses
from tocsr.train.learner import autocast

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from tocsr.data.images import Batch
    from tocsr.models.stages import Stage
    from tocsr.runs import Report
    from tocsr.train.configs import CalibrateConfig
    from tocsr.train.features import Features, Record
    from tocsr.train.learner import Learner


def grouped(
    params: Mapping[str, int], work: Mapping[str, float], most: int, num_groups: int
) -> list[list[str]]:
    """Surrogates in groups of about the same work, that of the heaviest placed first.

    Args:
        params: Parameters of each surrogate; a group's names keep this order.
        work: What a step of each takes, in any unit.
        most: Parameters of a group, at most, unless one surrogate alone has more; 0 for no bound.
        num_groups: Groups to make where there are as many surrogates; the bound may make more.
    """
    groups: list[list[str]] = [[] for _ in range(min(num_groups, len(params)))]

    def has_room(group: list[str], name: str) -> bool:
        return not most or not group or sum(params[n] for n in group) + params[name] <= most

    for name in sorted(params, key=lambda name: -work[name]):
        with_room = [group for group in groups if has_room(group, name)]
        if not with_room:
            groups.append([name])
        else:
            min(with_room, key=lambda group: sum(work[n] for n in group)).append(name)
    return [[name for name in params if name in group] for group in groups]


@dataclass
class GroupTraining:
    """Surrogates that train from the same passes of the teacher.

    In memory are the teacher, every surrogate's weights, moments and average, the features of one
    batch, and the gradients and activations of one surrogate.

    Args:
        config: The phase.
        features: The teacher's features of a batch on the device.
        learners: The surrogates; one that is ahead of another waits for it.
        device: Where they are.
        report: Told of every step.
        label: What it is told.
    """

    config: CalibrateConfig
    features: Features
    learners: list[Learner]
    device: torch.device
    report: Report
    label: str
    _clock: float = field(default=0.0, init=False)

    def run(self) -> None:
        """Trains and finishes them all, from where their checkpoints stand."""
        config, optim = self.config, self.config.optim
        self._clock = time.monotonic()
        self._finish()
        if not self.learners:
            return
        crops = PhotoCrops(config.data, config.seed, optim.num_steps * optim.batch_size)
        steps = range(min(learner.state.step for learner in self.learners), optim.num_steps)
        made = batches(crops, optim.batch_size, steps, config.data.num_workers)
        for step, batch in zip(steps, made, strict=True):
            self._advance(step, batch)
            self._finish()
            if not self.learners:
                return

    def _advance(self, step: int, batch: Batch) -> None:
        """One optimiser step of every surrogate whose turn it is, and what is due after it."""
        learners = [learner for learner in self.learners if learner.state.step == step]
        if learners:  # or those that it was for have stopped
            self._train(learners, batch)
            self._after(step + 1, learners)

    def _train(self, learners: list[Learner], batch: Batch) -> None:
        """One pass of the teacher, then each one's step; the features are gone afterwards."""
        parts = batch.to(self.device).split(self.config.optim.accumulation)
        records = [self._record(part) for part in parts]
        for learner in learners:
            learner.advance(parts, records)
            passes = learner.state.notes.get("teacher_passes", 0.0)
            learner.state.notes["teacher_passes"] = passes + 1 / len(learners)

    def _record(self, part: Batch) -> Record:
        """The teacher's features of a micro-batch, of these those that some surrogate asks for."""
        with autocast(self.config.optim, self.device):
            record = self.features(part, self.config.seed)
        stages = [learner.stage for learner in self.learners]
        asked = {port.name for stage in stages for port in (*stage.inputs, *stage.outputs)}
        return {k: v for k, v in record.items() if k in asked | {"time_embedding", "context"}}

    def _after(self, step: int, learners: list[Learner]) -> None:
        """Checks, logs, reports and keeps what is due after so many steps."""
        config, optim = self.config, self.config.optim
        last = step == optim.num_steps
        checked = bool(config.patience) and (step % config.check_every == 0 or last)
        if checked:
            self._check(learners)
        self._share_time(learners)
        if checked or last or step % optim.log_every == 0:
            for learner in learners:
                learner.write_log(checked)
        loss = sum(float(learner.losses.mean()) for learner in learners) / len(learners)
        self.report(self.label, step, optim.num_steps, {"loss": loss, "training": len(learners)})
        if step % optim.checkpoint_every == 0:
            for learner in learners:
                learner.state.write(learner.checkpoint)

    def _check(self, learners: list[Learner]) -> None:
        """The averages' losses on a few crops, the same at every check."""
        blocks = {learner.name: learner.average for learner in learners}
        losses = self._measured(blocks, self.config.num_checked, "check")
        for learner in learners:
            outputs = losses[learner.name]
            learner.take_check(sum(outputs.values()) / len(outputs))

    def _finish(self) -> None:
        """Measures and writes every surrogate that has no step left, and lets go of it."""
        over = [learner for learner in self.learners if learner.is_over]
        if not over:
            return
        blocks: dict[str, nn.Module] = {learner.name: learner.result_() for learner in over}
        blocks |= {f"{learner.stage.name}/": LeftOut(learner.stage) for learner in over}
        losses = self._measured(blocks, self.config.num_heldout, "heldout")
        self._share_time(over)
        for learner in over:
            learner.finish(losses[learner.name], losses[f"{learner.stage.name}/"])
        self.learners = [learner for learner in self.learners if not learner.is_over]

    def _measured(
        self, blocks: Mapping[str, nn.Module], num_crops: int, purpose: str
    ) -> dict[str, dict[str, float]]:
        stages: dict[str, Stage] = {x.stage.name: x.stage for x in self.learners}
        seed = derive_seed(self.config.seed, purpose)
        return measured_losses(
            blocks, stages, self.features, self.config.data, num_crops, seed, self.device
        )

    def _share_time(self, learners: list[Learner]) -> None:
        """Divides the time since the last call among them."""
        now = time.monotonic()
        for learner in learners:
            learner.state.seconds += (now - self._clock) / len(learners)
        self._clock = now
