"""The training loop: the only one.

A phase gives modules and a loss; the loop gives steps, mixed precision, accumulation, processes,
a moving average, checkpoints and logs. Every sample is a function of (seed, index), the learning
rate a function of the step, so the full state is weights, average, moments and a step number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from tocsr.config import require
from tocsr.data.images import Batch, PhotoCrops, batches
from tocsr.errors import TocsrError
from tocsr.processes import is_main, num_processes
from tocsr.train.state import TrainingState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter

    from tocsr.config import DataConfig, OptimConfig
    from tocsr.runs import Report, Run

# A batch -> its loss under "loss", and any other figures to log
Loss = Callable[[Batch], "Mapping[str, Tensor]"]


def learning_rate(optim: OptimConfig, step: int) -> float:
    """The learning rate of optimiser step `step`, counted from 0."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return optim.lr
    progress = (step - optim.warmup_steps) / max(optim.num_steps - optim.warmup_steps, 1)
    return optim.lr * 0.5 * (1 + math.cos(math.pi * progress))


class _Objective(nn.Module):
    """The trained modules and their loss as one module, so that processes share its gradients."""

    def __init__(self, modules: nn.ModuleDict, loss: Loss) -> None:
        super().__init__()
        self.trained, self.loss = modules, loss

    def forward(self, batch: Batch) -> Mapping[str, Tensor]:
        return self.loss(batch)


def fit(
    run: Run,
    label: str,
    modules: Mapping[str, nn.Module],
    loss: Loss,
    *,
    data: DataConfig,
    optim: OptimConfig,
    seed: int,
    device: torch.device,
    report: Report,
    num_distinct: int = 0,
    lr_factors: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, float]:
    """Trains `modules` in place, from where the run folder's checkpoint stands.

    Args:
        run: Where checkpoint and metrics go.
        label: What the progress bar says.
        modules: Networks whose parameters are trained; afterwards they hold the moving average.
        loss: Batch -> "loss", a scalar, and figures to log; uses the very objects in `modules`.
        data: Photos and crops.
        optim: The training.
        seed: Of the crops.
        device: Where the modules are.
        report: Told of every step.
        num_distinct: Number of different samples that training cycles through; 0 for no end.
        lr_factors: What the learning rate is multiplied by for the module of a name.

    Returns:
        The last logged figures, `seconds` of training over all resumptions, and the number of
        `processes`.

    Raises:
        TocsrError: The loss is not finite; the batch's files are named. Or the batch cannot be
            shared out, or an option needs what is not there.
    """
    accelerator = _accelerator(device, optim)
    if optim.gradient_checkpointing:
        _checkpoint_gradients_(modules)
    objective = _Objective(nn.ModuleDict(dict(modules)), loss).train()
    state = TrainingState.start(objective.trained, optim, lr_factors)
    state.resume(run)
    step = _Step(accelerator, optim, device, *accelerator.prepare(objective, state.optimizer))
    world, rank = accelerator.num_processes, accelerator.process_index
    dataset = PhotoCrops(data, seed, optim.num_steps * optim.batch_size, num_distinct)
    todo = range(state.step, optim.num_steps)
    with closing(_Log(run, state.step, optim.tensorboard)) as log:
        training = _Training(run, label, optim, report, step, state, log)
        for batch in batches(dataset, optim.batch_size, todo, data.num_workers, rank, world):
            training.advance(batch)
    if state.ema is not None:
        state.trained.load_state_dict(state.ema.module.state_dict())
    for module in modules.values():
        module.eval()
    figures = training.figures or _last_figures(run)
    return {**figures, "seconds": state.seconds, "processes": world}


def _accelerator(device: torch.device, optim: OptimConfig) -> Accelerator:
    """What makes the processes of a launch train together."""
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        device_placement=False,
        gradient_accumulation_steps=optim.accumulation,
        # a U-Net of blocks without residual layers leaves its time embedding unused
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    world = accelerator.num_processes
    require(
        world == num_processes(),
        f"{num_processes()} processes were launched, and on {device.type} {world} would train",
        "launch with torchrun, on CUDA or with --device cpu",
    )
    require(
        optim.batch_size % (world * optim.accumulation) == 0,
        f"batch_size must be a multiple of processes times accumulation, got {optim.batch_size}, "
        f"{world} and {optim.accumulation}",
    )
    return accelerator


def _checkpoint_gradients_(modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        require(
            getattr(module, "_supports_gradient_checkpointing", False),
            f"gradient_checkpointing must be off here: {name}, a {type(module).__name__}, lacks it",
        )
        module.enable_gradient_checkpointing()  # type: ignore[operator]


class _Log:
    """The lines of metrics.jsonl after a step, and TensorBoard's scalars where asked for."""

    def __init__(self, run: Run, step: int, tensorboard: bool) -> None:
        run.rewind_log(step)
        self.run = run
        self.board = tensorboard_writer(run.folder, step) if tensorboard and is_main() else None

    def add(self, step: int, figures: Mapping[str, float], facts: Mapping[str, float]) -> None:
        """Logs the figures of a step, and facts that are no curve."""
        self.run.log({"step": step, **figures, **facts})
        if self.board:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)
            self.board.flush()

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self.board:
            self.board.close()


def tensorboard_writer(folder: Path, step: int) -> SummaryWriter:
    """What writes a folder's `tensorboard`, from after `step` on.

    Raises:
        TocsrError: The package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415
    except ImportError as error:
        raise TocsrError(
            "optim.tensorboard needs the package tensorboard, which is not installed",
            "run: pip install 'tocsr[tensorboard]', or leave it off",
        ) from error
    # steps after this one are made again, so what was written of them no longer counts
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


@dataclass
class _Training:
    """What one optimiser step after the other is done with."""

    run: Run
    label: str
    optim: OptimConfig
    report: Report
    step: _Step
    state: TrainingState
    log: _Log

    def __post_init__(self) -> None:
        self.figures: dict[str, float] = {}
        self.started = time.monotonic() - self.state.seconds

    def advance(self, batch: Batch) -> None:
        """One optimiser step: trained, averaged, logged, reported, kept."""
        state, optim = self.state, self.optim
        terms = self.step(batch, state.step)
        if state.ema is not None:
            state.ema.update_parameters(state.trained)
        state.step += 1
        state.seconds = time.monotonic() - self.started
        last = state.step == optim.num_steps
        if state.step % optim.log_every == 0 or last:
            self._log_means(terms)
        self.report(self.label, state.step, optim.num_steps, self.figures)
        if state.step % optim.checkpoint_every == 0 or last:
            state.save(self.run.checkpoint)

    def _log_means(self, terms: dict[str, Tensor]) -> None:
        """Logs the loss and its terms, means over the processes."""
        accelerator, state = self.step.accelerator, self.state
        self.figures = {k: float(v) for k, v in accelerator.reduce(terms, "mean").items()}
        facts = {"seconds": round(state.seconds, 2), "processes": accelerator.num_processes}
        self.log.add(state.step, self.figures, facts)


@dataclass
class _Step:
    """One optimiser step: a batch in micro-batches, their gradients summed, one update."""

    accelerator: Accelerator
    optim: OptimConfig
    device: torch.device
    objective: nn.Module
    optimizer: Any

    def __call__(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Returns the loss and its terms, means over the micro-batches."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.optim, step) * group["lr_factor"]
        # Not accelerate's own autocast: one process may run phases of different precision in turn.
        bf16 = self.optim.precision == "bf16"
        sums: dict[str, Tensor] = {}
        for part in batch.to(self.device).split(self.optim.accumulation):
            with self.accelerator.accumulate(self.objective):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    terms = self.objective(part)
                check_finite(terms["loss"], part, step)
                self.accelerator.backward(terms["loss"])
                if self.accelerator.sync_gradients and self.optim.max_grad_norm:
                    self.accelerator.clip_grad_norm_(
                        self.objective.parameters(), self.optim.max_grad_norm
                    )
                self.optimizer.step()
                self.optimizer.zero_grad()
            for name, term in terms.items():
                share = term.detach().float() / self.optim.accumulation
                sums[name] = sums[name] + share if name in sums else share
        return sums


def _last_figures(run: Run) -> dict[str, float]:
    records = run.records()
    return {k: v for k, v in records[-1].items() if k != "step"} if records else {}


def check_finite(loss: Tensor, batch: Batch, step: int, what: str = "the loss") -> None:
    """Refuses a loss that is not finite, and names the batch's photos.

    Args:
        loss: A scalar.
        batch: What it was computed on.
        step: The optimiser step, counted from 0.
        what: How the error calls it, where there are several.
    """
    if not torch.isfinite(loss):
        raise TocsrError(
            f"{what} in step {step} must be finite and is {loss.item()}; "
            f"its photos: {', '.join(dict.fromkeys(batch.files))}",
            "look at these photos, or lower optim.lr",
        )
