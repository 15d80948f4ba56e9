"""The paper's tables, and our rows beside them in the same columns (tables 1 and 2)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tocsr
from tocsr.deploy.metrics.fid import MIN_IMAGES
from tocsr.deploy.test_sets import SIDE
from tocsr.errors import TocsrError, did_you_mean
from tocsr.models.cost import pipeline_costs
from tocsr.models.sr import OneStepGenerator
from tocsr.preset_files import read_yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLES = Path(tocsr.__file__).parent / "assets" / "paper_tables.yaml"
STEPS, GMACS, PARAMS = "steps", "GMACs", "params M"
_COSTS = (STEPS, GMACS, PARAMS)


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table of the paper.

    Args:
        source: Where its figures stand.
        columns: What they are called.
        metrics: Which of our metrics is which column, by column.
        rows: Figures of each method; None where the paper has none.
    """

    source: str
    columns: list[str]
    metrics: dict[str, str]
    rows: dict[str, list[float | None]]


def published_table(test_set: str) -> PaperTable:
    """The table of a test set.

    Raises:
        TocsrError: The paper has no such table.
    """
    values = read_yaml(TABLES)
    tables = values["tables"]
    if test_set not in tables:
        raise TocsrError(
            f"the paper has no table of a test set '{test_set}'", did_you_mean(test_set, tables)
        )
    columns = tables[test_set]["columns"]
    metrics = {column: name for column, name in values["metrics"].items() if column in columns}
    return PaperTable(
        source=values["source"], columns=columns, metrics=metrics, rows=tables[test_set]["rows"]
    )


def model_costs(model: Path) -> dict[str, dict[str, float]]:
    """Parameters and GMACs of encoder, U-Net, decoder and whole, at the paper's 512 x 512.

    Args:
        model: Folder of distill or of export.
    """
    generator = OneStepGenerator.from_pretrained(model)
    costs = pipeline_costs(generator.vae, generator.unet, SIDE)
    return {cost.part: {"params": cost.params, "gmacs": cost.macs_g} for cost in costs}


def paper_table(
    test_set: str, result: Mapping[str, Any], models: Mapping[str, Path]
) -> dict[str, Any]:
    """The published rows, and one for each system that was evaluated.

    Args:
        test_set: Whose table.
        result: Of an evaluation.
        models: Folders of the systems that are networks, by label.

    Returns:
        `rows` by column, None where a figure cannot be had; `empty`, from such a column of ours to
        the reason; `costs` of each model; `source`; `images`, which says whose figures ours are.
    """
    table = published_table(test_set)
    costs = {label: model_costs(path) for label, path in models.items()}
    ours = [
        {"method": label, "published": False} | _our_row(table, result, label, costs.get(label))
        for label in result["systems"]
    ]
    published = [
        {"method": method, "published": True} | dict(zip(table.columns, row, strict=True))
        for method, row in table.rows.items()
    ]
    lacking = [column for column in table.columns if any(row[column] is None for row in ours)]
    return {
        "test_set": test_set,
        "source": table.source,
        "size": f"{SIDE} x {SIDE}",
        "images": _images(test_set, result),
        "columns": table.columns,
        "rows": [*published, *ours],
        "empty": {column: _reason(column, table, result) for column in lacking},
        "costs": costs,
    }


def _our_row(
    table: PaperTable,
    result: Mapping[str, Any],
    label: str,
    cost: Mapping[str, Mapping[str, float]] | None,
) -> dict[str, float | None]:
    system = result["systems"][label]
    found = {name: mean["mean"] for name, mean in system["means"].items()}
    found |= {name: figure["value"] for name, figure in system["sets"].items()}
    known: dict[str, Any] = {
        column: found[name] for column, name in table.metrics.items() if name in found
    }
    if cost is not None:
        whole = cost["whole"]
        known |= {STEPS: 1, GMACS: whole["gmacs"], PARAMS: whole["params"] / 1e6}
    return {column: known.get(column) for column in table.columns}


def _reason(column: str, table: PaperTable, result: Mapping[str, Any]) -> str:
    """Why a column of ours is empty."""
    if column in _COSTS:
        return "counted of a --model that is a network, not of results in files or of bicubic"
    metric = table.metrics[column]
    return str(result["absent"].get(metric, f"{metric} is not among the --metrics"))


def _images(test_set: str, result: Mapping[str, Any]) -> str:
    """Whether our figures are of the images that the paper's are of."""
    count, protocol = len(result["images"]), result["protocol"]
    if (protocol["test_set"] or {}).get("name") != test_set:
        said = f"ours are of {count} images that were not compared with {test_set}: --test_set does"
    else:
        checked = "their pixels" if protocol["test_set_hash_known"] else "their number alone"
        said = f"ours are of the {count} images of {test_set}, checked by {checked}"
    is_noise = any(
        figure["is_noise"] for row in result["systems"].values() for figure in row["sets"].values()
    )
    return f"{said}; FID of fewer than {MIN_IMAGES} images is noise" if is_noise else said


def shown_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """What is printed of a table."""
    rows = [
        {"method": row["method"] if row["published"] else f"{row['method']} (measured here)"}
        | {column: _figure(row[column]) for column in table["columns"]}
        for row in table["rows"]
    ]
    shown: dict[str, Any] = {
        "table": rows,
        "source": table["source"],
        "images": table["images"],
    }
    if table["empty"]:
        shown["empty"] = table["empty"]
    for label, costs in table["costs"].items():
        shown[f"{label} at {table['size']}"] = {
            part: f"{cost['params']:,} parameters, {cost['gmacs']:.1f} GMACs"
            for part, cost in costs.items()
        }
    return shown


def _figure(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.4g}" if value < 1000 else f"{value:.0f}"
