"""What an evaluation leaves: the result file, and the figures that are printed."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

from tocsr import __version__
from tocsr.data.degradation.settings import load_degradation
from tocsr.deploy.manifest import versions
from tocsr.deploy.metrics.fid import MIN_IMAGES
from tocsr.deploy.metrics.table import METRICS
from tocsr.deploy.paper_table import shown_table
from tocsr.deploy.statistics import LEVEL, NUM_RESAMPLES, compare, mean_with_interval
from tocsr.deploy.test_sets import named_set
from tocsr.restoration import BICUBIC

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tocsr.deploy.configs import EvaluateConfig
    from tocsr.deploy.evaluate import Images, Measured
    from tocsr.deploy.metrics.metric import Metric

SCHEMA = 1
_PACKAGES = ("numpy", "torch", "pillow", "onnxruntime", "diffusers")


def record(
    config: EvaluateConfig,
    images: Images,
    measured: Measured,
    hashes: Mapping[str, str],
    metrics: Mapping[str, Metric],
    absent: Mapping[str, str],
) -> dict[str, Any]:
    """The result file: whatever another needs to repeat the figures or to distrust them.

    A value that is infinite or not defined stands as the word `inf` or `nan`, since JSON has no
    number for it.
    """
    computed = {name: _about(row) for name, row in metrics.items() if name not in absent}
    of_sets = measured.sets.features
    return {
        "schema": SCHEMA,
        "versions": {
            "tocsr": __version__,
            "python": platform.python_version(),
            **versions(_PACKAGES),
        },
        "protocol": _protocol(config),
        "metrics": {name: about for name, about in computed.items() if name not in of_sets},
        "set_metrics": {name: about for name, about in computed.items() if name in of_sets},
        "absent": dict(absent),
        "data": {of: {"num_images": len(images.names), "sha256": h} for of, h in hashes.items()},
        "missing": images.missing,
        "images": images.names,
        "systems": {
            label: {
                "source": _source(label, config, images),
                "seconds_per_image": measured.seconds[label] / len(images.names),
                "means": {m: _plain(asdict(mean_with_interval(v))) for m, v in values.items()},
                "values": _plain(values),
                "sets": _plain(measured.sets.of(label)),
            }
            for label, values in measured.values.items()
        },
        "comparisons": _comparisons(measured.values),
    }


def _protocol(config: EvaluateConfig) -> dict[str, Any]:
    made: Any = "as given"
    if config.degrade:
        settings = None if config.degrade == BICUBIC else load_degradation(config.degrade)
        made = asdict(settings) if settings else BICUBIC
    return {
        "images": "uint8 RGB as files hold it, paired by name",
        "border": config.border,
        "factor": config.factor,
        "low_resolution": made,
        "seed": config.seed,
        "test_set": {"name": config.test_set, **asdict(named_set(config.test_set))}
        if config.test_set
        else None,
        "hashes": "SHA-256 over each image's name, shape and pixels, in the order of the names",
        "intervals": f"{LEVEL:.0%} percentile bootstrap over images, {NUM_RESAMPLES} resamples",
    }


def _about(metric: Metric) -> dict[str, Any]:
    about: dict[str, Any] = {
        "title": metric.title,
        "higher_is_better": metric.higher_is_better,
        "unit": metric.unit,
        "span": metric.span,
        "protocol": metric.protocol,
    }
    if metric.weights:
        about["weights"] = {weights.file: weights.sha256 for weights in metric.weights}
    return about


def _source(label: str, config: EvaluateConfig, images: Images) -> dict[str, str]:
    """Where a system's results lie, or what made them."""
    if label in images.sr:
        return {"folder": str(images.systems[label])}
    saved = {"folder": str(config.save / label)} if config.save else {}
    return {"model": str(images.systems[label]), **saved}


def _comparisons(values: Mapping[str, Mapping[str, list[float]]]) -> list[dict[str, Any]]:
    """Every system against every other, on every metric."""
    return [
        {
            "metric": metric,
            "first": first,
            "second": second,
            **_plain(asdict(compare(values[first][metric], values[second][metric], better))),
        }
        for first, second in combinations(values, 2)
        for metric, better in ((name, METRICS[name].higher_is_better) for name in values[first])
    ]


def _plain(value: Any) -> Any:
    """With words for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def checked(result: Mapping[str, Any], is_hash_known: bool) -> str:
    """What of the test set was compared, in words; empty where none is named."""
    test_set = result["protocol"]["test_set"]
    if test_set is None:
        return ""
    said = f"{test_set['name']}: {len(result['images'])} images, as many as it has"
    if is_hash_known:
        return f"{said}, and their pixels are the known ones"
    return f"{said}; their pixels are not checked, as no checksum of this set is known"


def figures(result: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """What is printed of a result: a row for each system, and one for each comparison."""
    shown: dict[str, Any] = {
        "images": len(result["images"]),
        "systems": [
            {"system": label}
            | {METRICS[m].title: _shown(v, m) for m, v in row["means"].items()}
            | {METRICS[m].title: _shown_set(v, m) for m, v in row["sets"].items()}
            for label, row in result["systems"].items()
        ],
    }
    if result["protocol"]["test_set_checked"]:
        shown["test set"] = result["protocol"]["test_set_checked"]
    if result["comparisons"]:
        shown["comparisons"] = [
            {
                "system": row["first"],
                "against": row["second"],
                METRICS[row["metric"]].title: _shown(row["difference"], row["metric"]),
                "better on": row["wins"],
                "worse on": row["losses"],
            }
            for row in result["comparisons"]
        ]
    if "paper_table" in result:
        shown[f"paper, {result['paper_table']['test_set']}"] = shown_table(result["paper_table"])
    if result["absent"]:
        shown["absent"] = result["absent"]
    if result["missing"]:
        shown["missing"] = {label: len(names) for label, names in result["missing"].items()}
    return {**shown, "result": str(file), "seconds": result["seconds"]}


def _shown(mean: Mapping[str, Any], metric: str) -> str:
    """`25.151 [24.541, 25.774]`."""
    digits = METRICS[metric].digits
    value, low, high = (_rounded(mean[key], digits) for key in ("mean", "low", "high"))
    return f"{value} [{low}, {high}]"


def _shown_set(figure: Mapping[str, Any], metric: str) -> str:
    """`21.37`, or `123.49 (noise: 100 images, fewer than 500)`."""
    value = _rounded(figure["value"], METRICS[metric].digits)
    few = f" (noise: {figure['num_images']} images, fewer than {MIN_IMAGES})"
    return value + few if figure["is_noise"] else value


def _rounded(value: float | str, digits: int) -> str:
    return value if isinstance(value, str) else f"{value:.{digits}f}"
