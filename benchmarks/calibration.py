"""What sharing the teacher saves: its passes, and the time of a step of every surrogate.

    python benchmarks/calibration.py --runs runs/tiny --preset tiny --steps 10

Trains the preset's surrogates on the networks of `runs/tiny/expand-unet` for a few steps, three
times: the plain way, each alone, for which the teacher's network runs up to and including the
stage; those of a stage from the same pass of the teacher; and all from the same pass. The
surrogates must come out bitwise equal. Passes count batches; the autoencoder's encoder is part of
each, since it turns the photos into latents. Seconds are of this process's CPU, as a machine may
have other work, and of the steps after the first one, which reads the photos.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from common import table
from safetensors.torch import load_file

from tocsr.data.images import Batch
from tocsr.diffusion import NoiseSchedule, add_noise, draws
from tocsr.models.cost import count_macs, on_meta
from tocsr.models.library import surrogate_library
from tocsr.models.vae import pixels_to_latents
from tocsr.options import read_config
from tocsr.train.calibrate import Networks, build_surrogate, surrogate_names
from tocsr.train.features import Features, Record, teacher_features
from tocsr.train.learner import Learner
from tocsr.train.surrogate_training import GroupTraining

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tocsr.train.configs import CalibrateConfig


@torch.no_grad()
def features_up_to(networks: Networks, last: str, batch: Batch, seed: int) -> Record:
    """The teacher's features up to and including a stage; what comes after is not computed."""
    teacher, schedule = networks.teacher, NoiseSchedule()
    clean = pixels_to_latents(networks.vae, batch.images)
    noise, timestep = draws(schedule, clean, seed, batch.indices)
    sample = add_noise(schedule, clean, noise, timestep)
    embedding = teacher.embed_time(timestep, sample)
    record = {"time_embedding": embedding, "conv_in": teacher.conv_in(sample)}
    if teacher.context is not None:
        record["context"] = teacher.context.to(sample.dtype).expand(len(sample), -1, -1)
    for stage in teacher.stage_table:
        inputs = [record[port.name] for port in stage.inputs]
        outputs = teacher.stages[stage.name](inputs, embedding, record.get("context"))
        record |= zip((port.name for port in stage.outputs), outputs, strict=True)
        if stage.name == last:
            break
    return record


@dataclass
class Way:
    """One way to train them all.

    Args:
        name: What the table calls it.
        groups: Which surrogates train together.
        partly: Whether the teacher runs up to a group's stage alone.
    """

    name: str
    groups: list[list[str]]
    partly: bool
    passes: float = 0.0
    macs: float = 0.0
    seconds: float = 0.0

    def features(self, networks: Networks, group: list[str]) -> Features:
        """Those of a group."""
        if self.partly:
            return partial(features_up_to, networks, group[0].split("/")[0])
        return partial(teacher_features, networks.teacher, networks.vae)

    def train(self, config: CalibrateConfig, networks: Networks, meta: Networks) -> None:
        """Trains every group; per step, what it took."""
        stages = {stage.name: stage for stage in networks.teacher.stage_table}
        side = config.data.crop
        for group in self.groups:
            clock: list[float] = []

            def look(*_: object, clock: list[float] = clock) -> None:
                clock.append(time.process_time())

            learners = []
            for name in group:
                stage, variant = name.split("/")
                block = build_surrogate(networks.teacher, stages[stage], variant, config.seed)
                learners.append(Learner(name, stages[stage], block, config, config.folder))
            features, device = self.features(networks, group), networks.teacher.device
            GroupTraining(config, features, learners, device, look, "").run()
            self.seconds += (clock[-1] - clock[0]) / (len(clock) - 1)
            self.passes += 1
            image = Batch(torch.empty(1, 3, side, side, device="meta"), [0], [])
            macs = count_macs(partial(self.features(meta, group), image, 0))
            self.macs += macs * config.optim.batch_size


def ways(names: list[str]) -> list[Way]:
    """The three."""
    by_stage: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_stage[name.split("/")[0]].append(name)
    return [
        Way("alone, up to the stage", [[name] for name in names], partly=True),
        Way("a group a stage", list(by_stage.values()), partly=False),
        Way("one group", [names], partly=False),
    ]


def tensors(config: CalibrateConfig) -> Mapping[str, Any]:
    """Every weight of every surrogate, as bytes."""
    folder = config.folder / "surrogates"
    return {
        f"{path.relative_to(folder)}:{key}": value.numpy().tobytes()
        for path in sorted(folder.rglob("*.safetensors"))
        for key, value in load_file(path).items()
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, required=True, help="Holds a finished expand-unet.")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--steps", type=int, default=10, help="Optimiser steps, at least 2.")
    parser.add_argument("--num_threads", type=int, default=0, help="CPU threads; 0 takes all.")
    options = parser.parse_args(argv)
    given = {
        "preset": options.preset,
        "num_threads": options.num_threads,
        "device": "cpu",
        "optim.num_steps": options.steps,
        "patience": 0,
        "num_heldout": 1,
    }
    config = read_config("calibrate", [f"--{name}={value}" for name, value in given.items()])[0]
    networks = Networks.load(options.runs, "cpu", options.num_threads)
    shapes: Any = [on_meta(network) for network in (networks.teacher, networks.vae)]
    meta = Networks(*shapes)
    names = surrogate_names(surrogate_library(networks.teacher, config.local_only))
    tried, made = ways(names), []
    for way in tried:
        with TemporaryDirectory() as folder:
            own = replace(config, runs=Path(folder))
            way.train(own, networks, meta)
            made.append(tensors(own))
    if any(other != made[0] for other in made[1:]):
        raise SystemExit("the ways must give bitwise equal surrogates, and do not")
    plain = tried[0]
    print(f"{len(names)} surrogates, bitwise equal in all ways; of a step of all of them:\n")
    head = ["way", "passes of the teacher", "its GMACs", "seconds", "times faster"]
    rows = [
        [
            way.name,
            f"{way.passes:.0f}",
            f"{way.macs / 1e9:.1f}",
            f"{way.seconds:.3f}",
            f"{plain.seconds / way.seconds:.2f}",
        ]
        for way in tried
    ]
    print(table(head, rows))


if __name__ == "__main__":
    main()
