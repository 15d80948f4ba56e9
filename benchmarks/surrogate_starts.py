"""What a surrogate's start is worth: Eq. 8 before training and after a few steps, for each start.

    python benchmarks/surrogate_starts.py --runs runs/tiny

The teacher is that of `runs/tiny/expand-unet`; every row of the library that is smaller than the
teacher's block is built, local or not. It starts as constructed; with the teacher's weights copied
wherever a part has their name and shape; or from the teacher as a whole, as `calibrate` starts it.
All train on the same crops, noises and timesteps with calibrate's learning rate, and the loss is
measured on others, 0 the teacher and 1 an output of zeros; geometric means over the seeds, and over
the surrogates in the last lines.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import report, table
from torch import Tensor, nn

from tocsr.config import OptimConfig
from tocsr.data.images import Batch
from tocsr.devices import pick_device
from tocsr.models.attention import SelfAttention
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.layers import load_matching_
from tocsr.models.library import surrogate_library
from tocsr.models.surrogate_starts import counterparts, init_from_teacher_
from tocsr.models.surrogates import SurrogateStage
from tocsr.models.variants import TEACHER, find_variant
from tocsr.options import read_config
from tocsr.runs import Run
from tocsr.seeding import derive_seed
from tocsr.train.features import Record, measured_losses, stage_losses, teacher_features
from tocsr.train.loop import fit

Losses = dict[str, float]  # `stage/variant` -> Eq. 8


def leave_(block: SurrogateStage, teacher: Any) -> None:
    """As constructed."""


def copy_(block: SurrogateStage, teacher: Any) -> None:
    """Every part that has the name and the shape of its counterpart's."""
    for part, source in counterparts(block, teacher):
        if not isinstance(part, SelfAttention):  # the teacher's has other names
            load_matching_(getattr(part, "transformer", part), source)


STARTS: dict[str, Callable[[SurrogateStage, Any], object]] = {
    "constructed": leave_,
    "copied": copy_,
    "from the teacher": init_from_teacher_,
}


@dataclass
class Bench:
    """The networks of a run, and how the surrogates are trained and measured."""

    options: argparse.Namespace
    config: Any = field(init=False)

    def __post_init__(self) -> None:
        runs = self.options.runs
        arguments = [f"--preset={self.options.preset}", f"--runs={runs}"]
        self.config = read_config("calibrate", arguments)[0]
        self.device = pick_device("cpu", self.options.num_threads)
        self.teacher = load_unet(runs / "expand-unet" / "unet").requires_grad_(False)
        self.vae = load_vae(runs / "expand-unet" / "vae").requires_grad_(False)
        self.stages = {stage.name: stage for stage in self.teacher.stage_table}
        library = surrogate_library(self.teacher)
        self.names = [f"{s}/{v}" for s, row in library.items() for v in row if v != TEACHER]

    def features(self, batch: Batch, seed: int) -> Record:
        return teacher_features(self.teacher, self.vae, batch, seed)

    def built(self, start: str, seed: int) -> dict[str, nn.Module]:
        """Every surrogate, as a start leaves it."""
        blocks: dict[str, nn.Module] = {}
        for name in self.names:
            stage, variant = name.split("/")
            torch.manual_seed(derive_seed(seed, name))
            row = find_variant(self.stages[stage].kind, variant)
            block = SurrogateStage(self.stages[stage], row, self.teacher.facts)
            STARTS[start](block, self.teacher.stages[stage])
            blocks[name] = block
        return blocks

    def losses(self, blocks: dict[str, nn.Module]) -> Losses:
        """On crops of their own."""
        found = measured_losses(
            blocks,
            self.stages,
            self.features,
            self.config.data,
            self.options.num_crops,
            derive_seed(0, "heldout"),
            self.device,
        )
        return {name: sum(ports.values()) / len(ports) for name, ports in found.items()}

    def trained(self, start: str, seed: int) -> list[Losses]:
        """The losses before the first step and after each number of steps."""
        blocks, steps = self.built(start, seed), self.options.steps
        found = [self.losses(blocks)]

        def loss(batch: Batch) -> dict[str, Tensor]:
            record = self.features(batch, seed)
            each = [
                stage_losses(block, self.stages[name.split("/")[0]], record).mean()
                for name, block in blocks.items()
            ]
            return {"loss": torch.stack(each).sum()}  # no parameter is in two terms

        def look(label: str, done: int, total: int, figures: Any, /) -> None:
            report(label, done, total, figures)
            if done in steps:
                found.append(self.losses(blocks))

        with TemporaryDirectory() as folder:
            fit(
                Run(Path(folder)),
                f"{start}, seed {seed}",
                blocks,
                loss,
                data=self.config.data,
                optim=self.optim(),
                seed=seed,
                device=self.device,
                report=look,
            )
        return found

    def optim(self) -> OptimConfig:
        """Calibrate's, for fewer steps, without what belongs to its end."""
        return replace(
            self.config.optim,
            num_steps=max(self.options.steps),
            batch_size=self.options.batch_size,
            accumulation=1,
            schedule="constant",
            warmup_steps=0,
            max_grad_norm=0,
            ema_decay=0,
            precision="fp32",
            checkpoint_every=max(self.options.steps),
        )


def rows(bench: Bench, found: dict[str, list[list[Losses]]]) -> list[list[str]]:
    """A line for each surrogate, and for each stage and all of them the geometric mean.

    Args:
        bench: Gives the names.
        found: Start -> seed -> number of steps -> losses.
    """

    def cells(names: list[str]) -> list[str]:
        times = range(len(bench.options.steps) + 1)
        means = [
            geometric_mean([losses[time][name] for losses in seeds for name in names])
            for time in times
            for seeds in found.values()
        ]
        return [f"{mean:.4f}" for mean in means]

    lines = [[*name.split("/"), *cells([name])] for name in bench.names]
    for stage in bench.stages:
        of_stage = [name for name in bench.names if name.startswith(f"{stage}/")]
        lines.append([stage, "geometric mean", *cells(of_stage)])
    return [*lines, ["all", "geometric mean", *cells(bench.names)]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num_threads", type=int, default=0, help="CPU threads; 0 takes all.")
    parser.add_argument("--steps", type=int, nargs="+", default=[100], help="To measure after.")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_crops", type=int, default=64, help="That losses are measured on.")
    bench = Bench(parser.parse_args(argv))
    found = {
        start: [bench.trained(start, seed) for seed in bench.options.seeds] for start in STARTS
    }
    times = ["before", *(f"after {steps}" for steps in bench.options.steps)]
    head = ["stage", "variant", *(f"{start}, {time}" for time in times for start in STARTS)]
    print(table(head, rows(bench, found)))


if __name__ == "__main__":
    main()
