"""calibrate: every surrogate block alone, on the teacher's own features (paper 3.2.1).

```
runs/tiny/calibrate/
  surrogates/E1/r1-full-full.safetensors    a finished surrogate
  surrogates/E1/r1-full-full.json           what is known of it, written last
  trainings/E1/r1-full-full/metrics.jsonl   its losses, each output's apart
  trainings/E1/r1-full-full/checkpoint.safetensors   while it trains
```
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed

from tocsr.config import require
from tocsr.devices import pick_device
from tocsr.files import read_json
from tocsr.models.compact import num_params
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.library import surrogate_library
from tocsr.models.surrogate_starts import init_from_teacher_
from tocsr.models.surrogates import SurrogateStage
from tocsr.models.variants import TEACHER, find_variant
from tocsr.processes import from_main, num_processes
from tocsr.runs import phase, require_result, silent
from tocsr.seeding import derive_seed
from tocsr.tasks import executor
from tocsr.train.features import teacher_features
from tocsr.train.learner import Learner, facts_file, training_folder
from tocsr.train.surrogate_training import GroupTraining, grouped

if TYPE_CHECKING:
    from tocsr.models.compact import CompactUNet
    from tocsr.models.stages import Stage
    from tocsr.models.vae import Autoencoder
    from tocsr.runs import Report, Run
    from tocsr.train.configs import CalibrateConfig

Library = dict[str, list[str]]  # stage -> its variants' names
Rows = dict[str, dict[str, Any]]  # `stage/variant` -> facts of a finished surrogate


@dataclass(frozen=True)
class Task:
    """Surrogates that one process trains from the same passes of the teacher.

    Args:
        config: The phase.
        names: `stage/variant` of each.
        label: What the progress says.
        place: Where relative paths begin.
    """

    config: CalibrateConfig
    names: tuple[str, ...]
    label: str
    place: Path


@dataclass(frozen=True)
class Networks:
    """What all surrogates learn from, frozen, on one device.

    Args:
        teacher: The expanded U-Net.
        vae: Its autoencoder.
    """

    teacher: CompactUNet
    vae: Autoencoder

    @classmethod
    def load(cls, runs: Path, device: str, num_threads: int) -> Networks:
        """Those of a finished expand-unet."""
        place, folder = pick_device(device, num_threads), runs / "expand-unet"
        unet, vae = load_unet(folder / "unet"), load_vae(folder / "vae")
        return cls(*(network.to(place).requires_grad_(False) for network in (unet, vae)))


def surrogate_names(library: Library) -> list[str]:
    """`stage/variant` of every surrogate: the teacher's own blocks are none."""
    return [f"{stage}/{name}" for stage, row in library.items() for name in row if name != TEACHER]


def build_surrogate(teacher: CompactUNet, stage: Stage, variant: str, seed: int) -> SurrogateStage:
    """A new surrogate on the CPU, a function of the seed and of its own name.

    It starts from the teacher's weights where they fit.
    """
    torch.manual_seed(derive_seed(seed, f"{stage.name}/{variant}"))
    block = SurrogateStage(stage, find_variant(stage.kind, variant), teacher.facts)
    init_from_teacher_(block, teacher.stages[stage.name])
    return block


def train_surrogates(networks: Networks, report: Report, task: Task) -> Rows:
    """Trains a group from where its checkpoints stand, and writes each surrogate of it."""
    teacher, config = networks.teacher, task.config
    stages = {stage.name: stage for stage in teacher.stage_table}

    def learner(name: str) -> Learner:
        stage, variant = name.split("/")
        block = build_surrogate(teacher, stages[stage], variant, config.seed)
        return Learner(name, stages[stage], block.to(teacher.device), config, config.folder)

    features = partial(teacher_features, teacher, networks.vae)
    learners = map(learner, task.names)  # the group alone holds them, and lets go of them
    GroupTraining(config, features, [*learners], teacher.device, report, task.label).run()
    return {name: read_json(facts_file(config.folder, name)) for name in task.names}


_loaded = cache(Networks.load)  # once in the life of a worker


def train_apart(task: Task) -> Rows:
    """The same in a worker, which has nothing but the task.

    Raises:
        TocsrError: The worker's machine does not see the caller's folder.
    """
    config = task.config
    require(
        task.place.is_dir(),
        f"every machine of the cluster must see the folder {task.place}",
        "work in a folder that all machines share",
    )
    os.chdir(task.place)
    networks = _loaded(config.runs, config.device, config.num_threads)
    return train_surrogates(networks, silent, task)


def split_tasks(config: CalibrateConfig, teacher: CompactUNet, names: list[str]) -> list[Task]:
    """Surrogates in groups: some for every worker of every process, all within memory."""
    stages = {stage.name: stage for stage in teacher.stage_table}
    params, work = {}, {}
    for name in names:
        stage = stages[name.split("/")[0]]
        with torch.device("meta"):
            variant = find_variant(stage.kind, name.split("/")[1])
            params[name] = num_params(SurrogateStage(stage, variant, teacher.facts))
        work[name] = params[name] / stage.inputs[0].stride ** 2  # parameters times pixels
    groups = grouped(params, work, config.group_params, config.workers * num_processes())
    labels = [f"calibrate, group {i} of {len(groups)}" for i in range(1, len(groups) + 1)]
    place = Path.cwd()
    return [Task(config, tuple(g), label, place) for g, label in zip(groups, labels, strict=True)]


def _own_share(tasks: list[Task]) -> list[Task]:
    """Those of this process."""
    world = num_processes()
    return tasks[distributed.get_rank() :: world] if world > 1 else tasks


@from_main
def _unfinished(config: CalibrateConfig, library: Library) -> list[str]:
    names = surrogate_names(library)
    return [name for name in names if not facts_file(config.folder, name).exists()]


@from_main
def _result(config: CalibrateConfig, library: Library) -> dict[str, Any]:
    """What became of all surrogates, whoever trained them."""
    rows: Rows = {}
    for name in surrogate_names(library):
        rows[name] = read_json(facts_file(config.folder, name))
        rows[name].pop("outputs")
        left = training_folder(config.folder, name) / "checkpoint.safetensors"
        left.unlink(missing_ok=True)  # of a kill between the last two steps of finishing
    return {
        "library": library,
        "surrogates": rows,
        "worse_than_leaving_out": [name for name, r in rows.items() if not r["beats_leaving_out"]],
        "loss": sum(row["heldout_loss"] for row in rows.values()) / max(len(rows), 1),
        "seconds": sum(row["seconds"] for row in rows.values()),
        "teacher_passes": round(sum(row["teacher_passes"] for row in rows.values()), 2),
    }


@phase
def run(config: CalibrateConfig, run: Run, report: Report) -> dict[str, Any]:
    """Trains every surrogate of every stage; writes `surrogates/<stage>/<variant>.safetensors`.

    The result's `seconds` are those of training and measuring, over all workers, and
    `teacher_passes` the batches of training that went through the teacher.
    """
    require_result(config, "expand-unet")
    if config.workers > 1 or config.ray:
        teacher, work = load_unet(config.runs / "expand-unet" / "unet"), train_apart
    else:
        networks = Networks.load(config.runs, config.device, config.num_threads)
        teacher, work = networks.teacher, partial(train_surrogates, networks, report)
    library = surrogate_library(teacher, config.local_only)
    names = _unfinished(config, library)
    tasks = _own_share(split_tasks(config, teacher, names))
    total = sum(len(task.names) for task in tasks)
    rows: Rows = {}
    with executor(config.workers, config.ray) as pool:
        for _, made in pool.map(work, tasks):
            rows |= made
            worse = sum(not row["beats_leaving_out"] for row in rows.values())
            loss = sum(row["heldout_loss"] for row in rows.values()) / len(rows)
            figures = {"heldout loss": loss, "worse than leaving out": worse}
            report("surrogates", len(rows), total, figures)
    return _result(config, library)
