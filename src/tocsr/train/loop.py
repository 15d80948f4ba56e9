"""The training loop: the only one.

A phase gives modules and a loss; the loop gives steps, mixed precision, accumulation, processes,
a moving average, checkpoints and logs. Every sample is a function of (seed, index), the learning
rate a function of the step, so the full state is weights, average, moments and a step number.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tocsr.data.images import Batch, PhotoCrops, batches
from tocsr.errors import TocsrError
from tocsr.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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


def _average(decay: float) -> Any:
    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], num: Tensor | int) -> None:
        n = float(num)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


@dataclass
class _State:
    """What a checkpoint holds."""

    objective: nn.Module
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Writes the whole state as one safetensors file, at once or not at all."""
        tensors = {f"model.{k}": v for k, v in self.objective.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
        # Cloned: the modules may share storage, which safetensors refuses.
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        facts = {"step": str(self.step), "seconds": str(self.seconds)}
        with whole_file(path) as part:
            save_file(tensors, part, metadata=facts)

    def load(self, path: Path) -> None:
        """Goes back to a saved state; without one, stays as it is."""
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = file.metadata()
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, key = name.split(".", 1)
            parts[part][key] = tensor
        self.objective.load_state_dict(parts["model"])
        self.ema.load_state_dict(parts["ema"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            i, key = name.split(".")
            moments.setdefault(int(i), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])


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

    Returns:
        The last logged figures, `step`, and `seconds` of training over all resumptions.

    Raises:
        TocsrError: The loss is not finite; the batch's files are named.
    """
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        device_placement=False,
        gradient_accumulation_steps=optim.accumulation,
    )
    objective = _Objective(nn.ModuleDict(dict(modules)), loss).train()
    params = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=optim.lr, weight_decay=optim.weight_decay)
    ema = AveragedModel(objective.trained, multi_avg_fn=_average(optim.ema_decay))
    state = _State(objective.trained, ema, optimizer)
    state.load(run.checkpoint)
    run.rewind_log(state.step)
    step = _Step(accelerator, optim, device, *accelerator.prepare(objective, optimizer))
    dataset = PhotoCrops(data, seed, optim.num_steps * optim.batch_size, num_distinct)
    world, rank = accelerator.num_processes, accelerator.process_index
    todo = range(state.step, optim.num_steps)
    figures: dict[str, float] = {}
    started = time.monotonic() - state.seconds
    for batch in batches(dataset, optim.batch_size, todo, data.num_workers, rank, world):
        terms = step(batch, state.step)
        ema.update_parameters(objective.trained)
        state.step += 1
        state.seconds = time.monotonic() - started
        last = state.step == optim.num_steps
        if state.step % optim.log_every == 0 or last:
            figures = {k: float(v) for k, v in accelerator.reduce(terms, "mean").items()}
            record = {"step": state.step, **figures, "seconds": round(state.seconds, 2)}
            if accelerator.is_main_process:
                run.log(record)
        if accelerator.is_main_process:
            report(label, state.step, optim.num_steps, figures)
            if state.step % optim.checkpoint_every == 0 or last:
                state.save(run.checkpoint)
    if optim.ema_decay:
        objective.trained.load_state_dict(ema.module.state_dict())
    for module in modules.values():
        module.eval()
    return {**(figures or _last_figures(run)), "seconds": state.seconds}


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
            group["lr"] = learning_rate(self.optim, step)
        # Not accelerate's own autocast: one process may run phases of different precision in turn.
        bf16 = self.optim.precision == "bf16"
        sums: dict[str, Tensor] = {}
        for part in batch.to(self.device).split(self.optim.accumulation):
            with self.accelerator.accumulate(self.objective):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
                    terms = self.objective(part)
                _check_finite(terms["loss"], part, step)
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


def _check_finite(loss: Tensor, batch: Batch, step: int) -> None:
    if not torch.isfinite(loss):
        raise TocsrError(
            f"the loss of step {step} must be finite and is {loss.item()}; "
            f"its photos: {', '.join(dict.fromkeys(batch.files))}",
            "look at these photos, or lower optim.lr",
        )
