"""What all phases are told, and how a preset, a file and the command line become one configuration.

Imports nothing heavy, so that `--help` is instant.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import yaml

from tocsr.errors import TocsrError, did_you_mean

PRESETS = Path(__file__).parent / "presets"
DEGRADATIONS = Path(__file__).parent / "assets" / "degradations"
TASKS = Path(__file__).parent / "assets" / "tasks.yaml"
BICUBIC = "bicubic"  # the degradation that needs no settings


def require(holds: bool, message: str, hint: str = "") -> None:
    """Raises a usage error that says `message` unless the condition `holds`."""
    if not holds:
        raise TocsrError(message, hint)


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """What every phase is told.

    Args:
        preset: Name of a shipped preset, or a folder of the same layout.
        runs: Folder that holds one run folder per phase; phases meet there.
        seed: Seed of weights, crops, noise and timesteps.
        device: Where to compute: auto, cpu, cuda, cuda:N or mps.
        num_threads: CPU threads; 0 takes all cores.
    """

    verb: ClassVar[str]

    preset: str = "tiny"
    runs: Path = Path("runs/tiny")
    seed: int = 0
    device: str = "auto"
    num_threads: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, f"seed must be at least 0, got {self.seed}")

    @property
    def folder(self) -> Path:
        """The run folder of this phase."""
        return self.runs / self.verb


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """One training: an optimiser, a learning rate with warm-up, a moving average of the weights.

    Args:
        optimizer: AdamW, or Muon (not in the paper), which takes more time a step and fewer steps.
        lr: Peak learning rate.
        num_steps: Optimiser steps.
        batch_size: Samples per optimiser step, over all processes.
        accumulation: Micro-batches that one optimiser step is split into.
        warmup_steps: Steps over which the learning rate rises from 0.
        schedule: What the learning rate does after warm-up: falls to 0 along a cosine, or stays.
        weight_decay: Decoupled weight decay.
        max_grad_norm: Gradients are scaled down to this norm; 0 leaves them.
        ema_decay: Decay per step of the moving average that is saved; 0 saves the last weights.
        precision: Arithmetic of the forward pass; bf16 runs under autocast.
        checkpoint_every: Steps between two checkpoints of the full state.
        log_every: Steps between two lines of metrics.jsonl.
        gradient_checkpointing: Computes activations a second time in the backward pass instead of
            keeping them: less memory, more time, the same result.
        tensorboard: Logs to TensorBoard's files too, in the run folder's `tensorboard`.
    """

    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-4
    num_steps: int = 1000
    batch_size: int = 16
    accumulation: int = 1
    warmup_steps: int = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_every: int = 200
    log_every: int = 10
    gradient_checkpointing: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "accumulation", "checkpoint_every", "log_every"):
            require(
                getattr(self, name) >= 1, f"{name} must be at least 1, got {getattr(self, name)}"
            )
        require(self.lr > 0, f"lr must be above 0, got {self.lr}")
        require(0 <= self.ema_decay < 1, f"ema_decay must be in [0, 1), got {self.ema_decay}")
        require(
            self.batch_size % self.accumulation == 0,
            f"batch_size must be a multiple of accumulation, got {self.batch_size} "
            f"and {self.accumulation}",
        )


@dataclass(frozen=True, kw_only=True)
class Source:
    """One folder of photos, the WebDataset shards of one data set, or pairs, in a mixture.

    Args:
        path: Folder of photos or of .tar shards, searched with its subfolders; or a shard, or
            shards by braces, NAME-{000000..000084}.tar; `builtin` means the photos in the package.
            A folder that holds hr and lr is one of pairs.
        lr: Folder of a low-resolution image for each photo in the folder `path`, of the same name,
            which then stands in for one made by the task's degradation; empty for photos alone.
        weight: Share of the samples, relative to the other sources.
        limit: Takes only the first so many photos by name, or in the order of the shards; 0 takes
            all.
    """

    path: str
    lr: str = ""
    weight: float = 1.0
    limit: int = 0

    def __post_init__(self) -> None:
        require(
            0 < self.weight < float("inf"),
            f"the weight of data source '{self.path}' must be above 0, got {self.weight}",
            "leave the source out to take nothing from it",
        )
        require(
            self.limit >= 0,
            f"the limit of data source '{self.path}' must be at least 0, got {self.limit}",
        )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Photos and the crops taken from them.

    Args:
        sources: Folders of photos or of pairs, or WebDataset shards, with their weights and limits.
        fraction: Share of each source that is used, after its limit, in (0, 1].
        crop: Side of the square crops in high-resolution pixels.
        align: Crops begin at multiples of so many pixels; 8 puts them on the grid of latents.
        cache_mb: Memory for decoded photos, in MiB for each process that reads.
        num_workers: Processes that read photos; 0 reads in the training process.
    """

    sources: list[Source]
    fraction: float = 1.0
    crop: int = 128
    align: int = 1
    cache_mb: int = 2048
    num_workers: int = 0

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "data.sources must name at least one source of photos")
        require(0 < self.fraction <= 1, f"data.fraction must be in (0, 1], got {self.fraction}")
        require(
            self.crop > 0 and self.crop % 64 == 0,
            f"data.crop must be a positive multiple of 64 pixels, got {self.crop}",
        )
        require(self.align >= 1, f"data.align must be at least 1 pixel, got {self.align}")


def check_degradation(name: str, option: str) -> None:
    """Raises a usage error unless a degradation ships under this name or a YAML file has it."""
    shipped = [BICUBIC, *(path.stem for path in DEGRADATIONS.glob("*.yaml"))]
    require(
        name in shipped or (Path(name).suffix in (".yaml", ".yml") and Path(name).is_file()),
        f"{option}: no degradation and no YAML file is called '{name}'",
        did_you_mean(name, shipped),
    )


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """What there is to say of a task, as `assets/tasks.yaml` has it.

    Args:
        condition: What the network restores from, beside noise. low-resolution: the degraded photo,
            upsampled to the photo's size and encoded (Eq. 19).
        upscale: Factor between the low- and the high-resolution side.
        degradation: How a low-resolution image is made from a photo.
        metrics: What a finished model is measured with.
    """

    condition: Literal["low-resolution"]
    upscale: int
    degradation: str
    metrics: list[str]


@cache
def task_rows() -> dict[str, TaskRow]:
    """The tasks by name."""
    return {name: TaskRow(**row) for name, row in read_yaml(TASKS).items()}


def task_row(name: str) -> TaskRow:
    """The task of that name; raises a usage error where there is none."""
    rows = task_rows()
    require(name in rows, f"no task is called '{name}'", did_you_mean(name, rows))
    return rows[name]


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What the network restores: a row of the table of tasks, parts of which may be replaced.

    Args:
        name: Row that gives what is not given here: sr-x4 or sr-x2.
        upscale: Factor between the low- and the high-resolution side, 1, 2, 4 or 8; 0 takes the
            row's.
        degradation: How a low-resolution image is made from a photo: bicubic, or of second order:
            hard (Real-ESRGAN's), mild (StableSR's), photos (mild, and a fifth of the photos
            bicubic), or as a YAML file says; empty takes the row's.
    """

    name: str = "sr-x4"
    upscale: int = 0
    degradation: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "upscale", self.upscale or self.row.upscale)
        object.__setattr__(self, "degradation", self.degradation or self.row.degradation)
        # crops are multiples of 64 pixels, and a factor must divide them
        require(
            self.upscale in (1, 2, 4, 8), f"task.upscale must be 1, 2, 4 or 8, got {self.upscale}"
        )
        check_degradation(self.degradation, "task.degradation")

    @property
    def row(self) -> TaskRow:
        """The row of that name, whatever of it is replaced here."""
        return task_row(self.name)

    @property
    def condition(self) -> str:
        """What the network restores from."""
        return self.row.condition

    @property
    def metrics(self) -> list[str]:
        """What a finished model is measured with."""
        return self.row.metrics

    @property
    def degradation_name(self) -> str:
        """What a model says it was trained on: a shipped name, or the name of a file."""
        return Path(self.degradation).stem


def preset_folder(preset: str) -> Path:
    """The folder of a preset given by name or path.

    Raises:
        TocsrError: Neither a shipped preset nor a folder.
    """
    for folder in (PRESETS / preset, Path(preset)):
        if preset and folder.is_dir():
            return folder
    names = [folder.name for folder in PRESETS.iterdir() if folder.is_dir()]
    raise TocsrError(f"no preset and no folder is called '{preset}'", did_you_mean(preset, names))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        TocsrError: No such file, or not a mapping.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TocsrError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise TocsrError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    require(isinstance(value or {}, dict), f"{path} must hold a mapping of options")
    return value or {}


def _nested_config(hint: Any) -> type | None:
    """The dataclass in a field's type: the type itself, or the element of a list."""
    if get_origin(hint) is list:
        hint = get_args(hint)[0]
    return hint if is_dataclass(hint) and isinstance(hint, type) else None


def check_keys(config: type, values: Any, where: str, prefix: str = "") -> None:
    """Raises a usage error for the first key without a field in `config`, nearest name offered."""
    if isinstance(values, list):
        for value in values:
            check_keys(config, value, where, prefix)
    if not isinstance(values, dict):
        return
    hints = get_type_hints(config)
    known = [field.name for field in fields(config)]
    for key, value in values.items():
        require(
            key in known,
            f"{where}: unknown option '{prefix}{key}'",
            did_you_mean(str(key), known),
        )
        if nested := _nested_config(hints[key]):
            check_keys(nested, value, where, f"{prefix}{key}.")


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above` laid over it, mapping by mapping."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def preset_values(preset: str, config: type[PhaseConfig]) -> dict[str, Any]:
    """What a preset says to one phase: `common.yaml`, for the fields it has, then its own file."""
    folder = preset_folder(preset)
    common_path, own_path = folder / "common.yaml", folder / f"{config.verb}.yaml"
    known = {field.name for field in fields(config)}
    common = read_yaml(common_path) if common_path.exists() else {}
    common = {key: value for key, value in common.items() if key in known}
    own = read_yaml(own_path) if own_path.exists() else {}
    check_keys(config, common, str(common_path))
    check_keys(config, own, str(own_path))
    # a TaskConfig has taken its row's values; as defaults they would outlive another row's name
    unset = {"task": {field.name: field.default for field in fields(TaskConfig)}}
    below = unset if "task" in known else {}
    return merged(merged(merged(below, common), own), {"preset": preset})
