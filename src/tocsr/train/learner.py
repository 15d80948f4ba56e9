"""A surrogate in training: its weights, average, optimiser, steps, early stop, log, checkpoint."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tocsr.files import append_json_line, read_json_lines, whole_file, write_json, write_text
from tocsr.models.compact import num_params
from tocsr.processes import num_processes
from tocsr.train.features import stage_losses
from tocsr.train.loop import check_finite, learning_rate, tensorboard_writer
from tocsr.train.state import TrainingState

if TYPE_CHECKING:
    from pathlib import Path

    from tocsr.config import OptimConfig
    from tocsr.data.images import Batch
    from tocsr.models.stages import Stage
    from tocsr.train.configs import CalibrateConfig
    from tocsr.train.features import Record


def has_stalled(checks: list[float], patience: int, min_gain: float) -> bool:
    """Whether the least loss fell by less than `min_gain` over the last `patience` checks.

    Not in the paper: most surrogates are done long before the slowest one.

    Args:
        checks: The loss of each check so far.
        patience: 0 for never.
        min_gain: Relative to the least loss before these checks, in [0, 1).
    """
    if not patience or len(checks) <= patience:
        return False
    return min(checks) > (1 - min_gain) * min(checks[:-patience])


def autocast(optim: OptimConfig, device: torch.device) -> torch.autocast:
    """The arithmetic of a forward pass."""
    return torch.autocast(device.type, torch.bfloat16, enabled=optim.precision == "bf16")


def facts_file(folder: Path, name: str) -> Path:
    """What says that a surrogate is finished, beside its weights in the phase's folder."""
    return folder / "surrogates" / f"{name}.json"


def training_folder(folder: Path, name: str) -> Path:
    """Where a surrogate's log lies and, while it trains, its checkpoint."""
    return folder / "trainings" / name


class Learner:
    """A surrogate in training. Nothing here depends on what trains beside it.

    Args:
        name: `stage/variant`.
        stage: Whose outputs it learns.
        block: Its network on its device, as it starts; a checkpoint lays its weights over it.
        config: The phase.
        folder: The phase's.
    """

    def __init__(
        self, name: str, stage: Stage, block: nn.Module, config: CalibrateConfig, folder: Path
    ) -> None:
        self.name, self.stage, self.config = name, stage, config
        self.facts = facts_file(folder, name)
        training = training_folder(folder, name)
        self.checkpoint, self.log = training / "checkpoint.safetensors", training / "metrics.jsonl"
        self.state = state = TrainingState.start(block.train(), config.optim)
        state.load(self.checkpoint)
        self.losses = torch.zeros(len(stage.outputs))  # of the last step
        # what was logged after the checkpoint will be made again
        logged = [line for line in read_json_lines(self.log) if line["step"] <= state.step]
        write_text(self.log, "".join(json.dumps(line) + "\n" for line in logged))
        self.board = tensorboard_writer(training, state.step) if config.optim.tensorboard else None

    @property
    def average(self) -> nn.Module:
        """The moving average of the weights, or the weights where none is kept."""
        return self.state.trained if self.state.ema is None else self.state.ema.module

    @property
    def checks(self) -> list[float]:
        """The average's loss at each check for an early stop."""
        return self.state.notes.setdefault("checks", [])

    @property
    def stopped_early(self) -> bool:
        """Whether it has stalled before its last step."""
        config = self.config
        stalled = has_stalled(self.checks, config.patience, config.min_gain)
        return stalled and self.state.step < config.optim.num_steps

    @property
    def is_over(self) -> bool:
        """Whether no step is left to take."""
        return self.state.step >= self.config.optim.num_steps or self.stopped_early

    def advance(self, parts: list[Batch], records: list[Record]) -> None:
        """One optimiser step.

        Args:
            parts: A batch in micro-batches.
            records: The teacher's features of each.

        Raises:
            TocsrError: The loss is not finite.
        """
        state, optim = self.state, self.config.optim
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(optim, state.step)
        self.losses = torch.stack(
            [self._descend(*pair) / len(parts) for pair in zip(parts, records, strict=True)]
        ).sum(dim=0)
        if optim.max_grad_norm:
            nn.utils.clip_grad_norm_(state.trained.parameters(), optim.max_grad_norm)
        state.optimizer.step()
        state.optimizer.zero_grad()
        if state.ema is not None:
            state.ema.update_parameters(state.trained)
        state.step += 1

    def _descend(self, part: Batch, record: Record) -> Tensor:
        """Adds a micro-batch's share to the gradient; the loss of each output."""
        optim = self.config.optim
        with autocast(optim, part.images.device):
            losses = stage_losses(self.state.trained, self.stage, record)
        check_finite(losses.mean(), part, self.state.step, f"the loss of {self.name}")
        (losses.mean() / optim.accumulation).backward()
        return losses.detach()

    def take_check(self, loss: float) -> None:
        """Notes the average's loss, and sets the average aside where it is the best so far."""
        if loss < min(self.checks, default=math.inf):
            weights = self.average.state_dict()
            self.state.kept = {name: value.cpu().clone() for name, value in weights.items()}
        self.checks.append(loss)

    def write_log(self, checked: bool) -> None:
        """Logs the loss of the last step, each output's apart, and that of a check just made."""
        state = self.state
        ports = [port.name for port in self.stage.outputs]
        figures = {"loss": float(self.losses.mean())}
        figures |= dict(zip(ports, self.losses.tolist(), strict=True))
        if checked:
            figures["check_loss"] = self.checks[-1]
        facts = {"seconds": round(state.seconds, 2), "processes": num_processes()}
        append_json_line(self.log, {"step": state.step, **figures, **facts})
        if self.board:
            for name, value in figures.items():
                self.board.add_scalar(name, value, state.step)
            self.board.flush()

    def result_(self) -> nn.Module:
        """The block with the weights that training gave it: the best check's, or the average."""
        block = self.state.trained
        block.load_state_dict(self.state.kept or self.average.state_dict())
        return block.eval()

    def finish(self, outputs: dict[str, float], left_out: dict[str, float]) -> None:
        """Writes the weights, then the facts, which say that the surrogate is finished.

        Args:
            outputs: Held-out loss of the result by output of the stage.
            left_out: The same of leaving the stage out.
        """
        state, block = self.state, self.state.trained
        loss, trivial = (sum(losses.values()) / len(losses) for losses in (outputs, left_out))
        with whole_file(self.facts.with_suffix(".safetensors")) as part:
            save_file({k: v.cpu().contiguous() for k, v in block.state_dict().items()}, part)
        facts: dict[str, Any] = {
            "params": num_params(block),
            "heldout_loss": loss,
            "left_out_loss": trivial,
            "beats_leaving_out": loss < trivial,
            "steps": state.step,
            "stopped_early": self.stopped_early,
            "seconds": state.seconds,
            "teacher_passes": state.notes["teacher_passes"],
            "outputs": outputs,
        }
        write_json(self.facts, facts)
        self.checkpoint.unlink(missing_ok=True)
        if self.board:
            self.board.close()
