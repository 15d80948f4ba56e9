"""One-step students by the paper's loss and by each extra one, beside their teacher and bicubic.

    python benchmarks/one_step.py --preset tiny --runs runs/tiny --hr FOLDER --metric_weights FOLDER

`--runs` holds the finished expand-unet and train-sr, whose task is the students' too. The phase
distill runs once a student and seed with the preset's steps, in folders of their own under `--out`;
students of one seed learn from the same teacher results, and a stopped command goes on where it
was. All are measured on the photos of `--hr`, degraded as `--degradation` says with seed 0 or as
`--lr` has them, whole, with the start noise of seed 0; what is measured is the 8-bit image as it
would be saved. Of several seeds the mean and, in brackets, the spread. Seconds are for one image,
of the network alone. `--models` are measured too, with their dial at each `--fidelity`.
`--save` keeps the results of the first seed, for `tocsr evaluate --sr` to set beside others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from common import (
    base_parser,
    link_phases,
    mean_and_spread,
    named_folder,
    phase_config,
    report,
    table,
)

from tocsr.data.degrade import degrade
from tocsr.data.images import to_tensor, to_uint8
from tocsr.deploy.image_files import Picture, read_image, write_image
from tocsr.deploy.metrics.subject import Subject
from tocsr.deploy.metrics.table import METRICS, chosen_metrics, load_metrics
from tocsr.deploy.pairs import common_names, named_images
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.sr import MultiStepGenerator, OneStepGenerator, super_resolve
from tocsr.models.vae import upsample
from tocsr.preset_files import read_yaml
from tocsr.runs import as_plain
from tocsr.train import distill
from tocsr.train.sr_configs import LOSSES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from tocsr.deploy.metrics.metric import Metric

# The paper's loss alone, whatever the preset adds
OFF: dict[str, Any] = {
    **{f"{name}_weight": 0.0 for name in LOSSES},
    "distill_weight": 1.0,
    "decoder": "frozen",
    "sharpen": False,
}
# Name -> what it is told of distill beside that. With these weights the gradients of the terms on
# the latent of tiny's finished student are about as large.
STUDENTS: dict[str, dict[str, Any]] = {
    "noise": {"prediction": "noise"},
    "clean": {"prediction": "clean"},
    "+ pixel": {"prediction": "clean", "pixel_weight": 1.0},
    "+ pixel, decoder": {"prediction": "clean", "pixel_weight": 1.0, "decoder": "trained"},
    "+ perceptual": {"prediction": "clean", "perceptual_weight": 0.3},
    "+ latent": {"prediction": "clean", "latent_weight": 0.5},
    "+ adversarial": {"prediction": "clean", "adversarial_weight": 0.05},
    "+ all": {
        "prediction": "clean",
        "pixel_weight": 1.0,
        "perceptual_weight": 0.3,
        "latent_weight": 0.5,
        "adversarial_weight": 0.05,
    },
}
DEFAULT_METRICS = ("psnr-y", "ssim-y", "stlpips", "niqe")


@dataclass(frozen=True)
class Turned:
    """A one-step model with its dial of fidelity turned.

    Args:
        model: The model.
        fidelity: From 0 to 1.
    """

    model: OneStepGenerator
    fidelity: float

    @property
    def unet(self) -> Any:
        """Its U-Net, whose strides say what sizes it takes."""
        return self.model.unet

    def __call__(self, image: Tensor, noise: Tensor) -> Tensor:
        return self.model(image, noise, self.fidelity)


@dataclass(frozen=True)
class Tested:
    """One image to measure on.

    Args:
        index: Its place by name.
        name: What it is called.
        lr: (1, 3, h, w) in [-1, 1].
        hr: What a result is held against.
    """

    index: int
    name: str
    lr: Tensor
    hr: Subject


def measuring_parser(about: str | None) -> argparse.ArgumentParser:
    """A parser with the options of training on photos and measuring on others."""
    parser = base_parser(about)
    parser.add_argument("--photos", type=Path, help="To train on; the preset's otherwise.")
    parser.add_argument("--hr", type=Path, required=True, help="Folder of photos to measure on.")
    parser.add_argument("--lr", type=Path, help="Folder of their low-resolution images, by name.")
    parser.add_argument("--limit", type=int, default=0, help="Only so many photos; 0 for all.")
    parser.add_argument("--metric_weights", type=Path, help="Folder of the metrics' files.")
    return parser


def folder_name(system: str) -> str:
    """A system's name without what a path should not have."""
    return system.removeprefix("+ ").replace(", ", "-").replace(" ", "-")


def student_config(options: argparse.Namespace, name: str, seed: int) -> Any:
    """The configuration of one student's distill."""
    runs = options.out / f"{folder_name(name)}-{seed}"
    values = {"perceptual": options.perceptual, "perceptual_crop": options.perceptual_crop}
    if options.num_targets:
        values["num_targets"] = options.num_targets
    values |= {**OFF, **STUDENTS[name], "runs": runs, "seed": seed}
    if values["perceptual_weight"] and options.perceptual_weight:
        values["perceptual_weight"] = options.perceptual_weight
    told = options.runs / "train-sr" / "config.yaml"
    task = read_yaml(told)["task"] if told.exists() else {}
    values |= {f"task.{key}": value for key, value in task.items()}
    return phase_config("distill", options, "optim.num_steps", **values)


def trained_student(options: argparse.Namespace, name: str, seed: int) -> Path:
    """Folder of one finished student, trained now if need be."""
    config = student_config(options, name, seed)
    config.folder.mkdir(parents=True, exist_ok=True)
    link_phases(config.runs, options.runs, ("expand-unet", "train-sr"))
    shared = options.out / f"targets-{target_key(config)}"
    shared.mkdir(exist_ok=True)
    if not (config.folder / "targets").is_symlink():
        (config.folder / "targets").symlink_to(shared.resolve(), True)
    distill.run(config, partial(labelled_report, f"{name}, seed {seed}, "))
    return config.folder / "model"


def target_key(config: Any) -> str:
    """What the teacher's results are functions of, in a few letters."""
    names = ("data", "task", "seed", "num_denoise_steps", "num_targets", "clip")
    values = [as_plain(getattr(config, name)) for name in names]
    text = json.dumps([*values, config.optim.batch_size], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def labelled_report(prefix: str, label: str, done: int, total: int, figures: Any) -> None:
    report(prefix + label, done, total, figures)


def tested_images(options: argparse.Namespace, upscale: int, degradation: str) -> list[Tested]:
    """The photos, cut to what `upscale` divides, and their low-resolution images."""
    folders = {"hr": named_images(options.hr)}
    if options.lr:
        folders["lr"] = named_images(options.lr)
    names, _ = common_names(folders, allow_missing=False)
    found = []
    for index, name in enumerate(names[: options.limit or None]):
        hr = read_image(folders["hr"][name]).rgb
        height, width = (side // upscale * upscale for side in hr.shape[:2])
        hr = hr[:height, :width]
        if options.lr:
            lr = to_tensor(read_image(folders["lr"][name]).rgb)[None]
        else:
            lr = degrade(to_tensor(hr)[None], upscale, degradation, 0, [index])
        found.append(Tested(index, name, lr, Subject(hr)))
    return found


@torch.no_grad()
def measured(
    system: Any,
    images: Sequence[Tested],
    metrics: Mapping[str, Callable[..., float]],
    save: Path | None = None,
) -> dict[str, float]:
    """Each metric's mean over the images, and `seconds` for one.

    Args:
        system: Called with a low-resolution image and its index.
        images: What is measured on.
        metrics: By name.
        save: Folder that receives the results as PNG files.
    """
    system(images[0].lr, 0)  # the first call allocates
    rows, seconds = [], 0.0
    for image in images:
        started = time.perf_counter()
        result = system(image.lr, image.index)
        seconds += time.perf_counter() - started
        subject = Subject(to_uint8(result[0]))
        if save:
            save.mkdir(parents=True, exist_ok=True)
            write_image(save / f"{image.name}.png", Picture(subject.rgb), "png")
        rows.append([measure(subject, image.hr) for measure in metrics.values()])
    means = np.mean(rows, axis=0).tolist()
    return {**dict(zip(metrics, means, strict=True)), "seconds": seconds / len(images)}


def as_system(generator: Any, upscale: int) -> Callable[[Tensor, int], Tensor]:
    """A generator as a system: called with a low-resolution image and its index."""
    return lambda lr, index: super_resolve(generator, lr, upscale, 0, [index])


def systems(options: argparse.Namespace, upscale: int, clip: float) -> dict[str, list[Any]]:
    """What is compared by name, one system for each seed."""

    def one_step(folder: Path, fidelity: float = 0.0) -> Any:
        return as_system(Turned(OneStepGenerator.from_pretrained(folder).eval(), fidelity), upscale)

    vae = load_vae(options.runs / "expand-unet" / "vae")
    unet = load_unet(options.runs / "train-sr" / "unet")
    found: dict[str, list[Any]] = {"bicubic": [lambda lr, index: upsample(lr, upscale)]}
    for steps in options.teacher_steps:
        name = f"teacher, {steps} step{'s' if steps > 1 else ''}"
        found[name] = [as_system(MultiStepGenerator(vae, unet, steps, clip), upscale)]
    for name in options.students:
        folders = [trained_student(options, name, seed) for seed in options.seeds]
        found[name] = [one_step(folder) for folder in folders]
    for name, folder in options.models:
        for fidelity in options.fidelity:
            found[f"{name}, fidelity {fidelity:g}"] = [one_step(folder, fidelity)]
    return found


def cell(figures: Sequence[Mapping[str, float]], name: str, digits: int) -> str:
    """A figure, of several seeds the mean and the spread."""
    values = [row[name] for row in figures]
    return mean_and_spread(values, digits) if len(values) > 1 else f"{values[0]:.{digits}f}"


def cells(figures: Sequence[Mapping[str, float]], rows: Mapping[str, Metric]) -> list[str]:
    """Those of a table's line for one system, its figures by seed."""
    return [cell(figures, name, row.digits) for name, row in rows.items() if name in figures[0]]


def say_absent(absent: Mapping[str, str], rows: Mapping[str, Metric]) -> None:
    """Prints which metrics are not measured and why."""
    for name, reason in absent.items():
        print(f"\n{rows[name].title} is not measured: it {reason}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = measuring_parser(__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--out", type=Path, default=Path("runs/one-step"))
    parser.add_argument("--degradation", help="To measure on; the task's otherwise.")
    parser.add_argument("--students", nargs="*", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument("--teacher_steps", type=int, nargs="*", default=[1, 4, 15, 50])
    parser.add_argument("--models", nargs="*", type=named_folder, default=[], metavar="NAME=FOLDER")
    parser.add_argument("--fidelity", type=float, nargs="+", default=[0.0], help="Of --models.")
    parser.add_argument("--num_targets", type=int, help="In place of the preset's.")
    parser.add_argument("--perceptual", default="encoder", help="As in distill.")
    parser.add_argument("--perceptual_weight", type=float, help="In place of the encoder's 0.3.")
    parser.add_argument("--perceptual_crop", type=int, default=0, help="As in distill.")
    parser.add_argument("--save", type=Path, help="Folder to write results to, one a system.")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=list(DEFAULT_METRICS))
    options = parser.parse_args(argv)
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    config = student_config(options, next(iter(STUDENTS)), options.seeds[0])
    upscale, degradation = config.task.upscale, config.task.degradation
    images = tested_images(options, upscale, options.degradation or degradation)
    rows = chosen_metrics(options.metrics, (), has_reference=True)
    metrics, absent = load_metrics(rows, options.metric_weights)
    lines = []
    for name, of_seeds in systems(options, upscale, config.clip).items():
        save = options.save and options.save / folder_name(name)
        figures = [
            measured(system, images, metrics, save if i == 0 else None)
            for i, system in enumerate(of_seeds)
        ]
        lines.append([name, *cells(figures, rows), cell(figures, "seconds", 2)])
    print(table(["system", *(rows[name].title for name in metrics), "seconds"], lines))
    say_absent(absent, rows)


if __name__ == "__main__":
    main()
