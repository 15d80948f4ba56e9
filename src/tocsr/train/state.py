"""The full state of a training, and its checkpoint."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tocsr.config import require
from tocsr.files import whole_file
from tocsr.processes import from_main, main_only
from tocsr.train.muon import Muon

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tocsr.config import OptimConfig
    from tocsr.runs import Run


def _average(decay: float) -> Any:
    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], num: Tensor | int) -> None:
        n = float(num)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, in memory of their own, as safetensors wants them.

    Only what shares memory is copied: all of it at once would double what SD 1.5 takes.
    """
    apart, taken = {}, set()
    for name, given in tensors.items():
        tensor = given.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        shares = storage.data_ptr() in taken or storage.nbytes() != tensor.nbytes
        taken.add(storage.data_ptr())
        apart[name] = tensor.clone() if shares else tensor
    return apart


@dataclass
class TrainingState:
    """What a checkpoint holds.

    Args:
        trained: The networks.
        ema: The moving average of their weights; None where its decay is 0.
        optimizer: Its moments.
        step: Optimiser steps done.
        seconds: What they took, over all resumptions.
        kept: Weights set aside, such as the best so far; empty where none are.
        notes: What else a training remembers, as JSON.
    """

    trained: nn.Module
    ema: AveragedModel | None
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    kept: dict[str, Tensor] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(
        cls,
        trained: nn.Module,
        optim: OptimConfig,
        lr_factors: Mapping[str, float] = MappingProxyType({}),
    ) -> TrainingState:
        """The state before the first step.

        Args:
            trained: The networks.
            optim: The training.
            lr_factors: What the learning rate is multiplied by for the submodule of a name.
        """
        by_factor = defaultdict(list)
        for name, param in trained.named_parameters():
            if param.requires_grad:
                by_factor[lr_factors.get(name.split(".")[0], 1.0)].append(param)
        groups = [{"params": group, "lr_factor": factor} for factor, group in by_factor.items()]
        kind = Muon if optim.optimizer == "muon" else torch.optim.AdamW
        optimizer = kind(groups, lr=optim.lr, weight_decay=optim.weight_decay)
        ema = None  # another copy of the weights, 3.5 GiB for SD 1.5 and its autoencoder
        if optim.ema_decay:
            ema = AveragedModel(trained, multi_avg_fn=_average(optim.ema_decay))
        return cls(trained, ema, optimizer)

    @main_only
    def save(self, path: Path) -> None:
        """Writes the whole state, where all processes train one network."""
        self.write(path)

    def write(self, path: Path) -> None:
        """Writes the whole state as one safetensors file, at once or not at all."""
        tensors = {f"model.{k}": v for k, v in self.trained.state_dict().items()}
        tensors |= {f"kept.{k}": v for k, v in self.kept.items()}
        if self.ema is not None:
            tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in moments.items()}
        tensors = _apart(tensors)
        facts = {"step": str(self.step), "seconds": str(self.seconds)}
        facts["notes"] = json.dumps(self.notes)
        with whole_file(path) as part:
            save_file(tensors, part, metadata=facts)

    def resume(self, run: Run) -> None:
        """Goes back to the run folder's checkpoint, all processes to the same.

        Raises:
            TocsrError: They do not see the same run folder.
        """
        self.load(run.checkpoint)
        step = from_main(lambda: self.step)()
        require(
            step == self.step,
            f"all processes must see the same {run.checkpoint}: the main one goes on from step "
            f"{step}, another one from {self.step}",
            "keep the runs folder where all machines see it",
        )

    def load(self, path: Path) -> None:
        """Goes back to a saved state; without one, stays as it is."""
        if not path.exists():
            return
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = file.metadata()
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "kept": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, key = name.split(".", 1)
            parts[part][key] = tensor
        self.trained.load_state_dict(parts["model"])
        if self.ema is not None:
            self.ema.load_state_dict(parts["ema"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            i, key = name.split(".")
            moments.setdefault(int(i), {})[key] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        self.kept, self.notes = parts["kept"], json.loads(facts.get("notes", "{}"))
