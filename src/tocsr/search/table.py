"""The winners of a search as a page, like the paper's table S6."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tocsr.search.frechet import LABEL
from tocsr.search.objectives import PIXELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MARK = "*"


def marked(stage: str, variant: str, surrogates: Mapping[str, Any]) -> str:
    """A variant's name, with a mark where calibration did not make it better than no block.

    Args:
        stage: Its stage.
        variant: Its name.
        surrogates: `stage/variant` -> what calibrate says of it.
    """
    row = surrogates.get(f"{stage}/{variant}", {})
    return variant if row.get("beats_leaving_out", True) else variant + MARK


def winners_table(
    winners: Sequence[Mapping[str, Any]], surrogates: Mapping[str, Any], latency: str = ""
) -> str:
    """Two tables in Markdown: what each winner costs and misses, and what it is made of.

    Args:
        winners: Lines of the ledger with their `tolerance`, and `frechet_distance` where it was
            measured.
        surrogates: `stage/variant` -> what calibrate says of it.
        latency: What was measured, and on which machine, where latency is known.
    """
    columns = {
        "tolerance": [f"{w['tolerance']:g}" for w in winners],
        "parameters": [f"{w['params']:,}" for w in winners],
        f"GMACs at {PIXELS} x {PIXELS}": [f"{w['macs_g']:.3f}" for w in winners],
    }
    if latency:
        columns["latency, ms"] = [f"{w['latency_ms']:.2f}" for w in winners]
    columns["gap"] = [f"{w['gap']:.3g}" for w in winners]
    columns["relative gap"] = [f"{w['relative_gap']:.3g}" for w in winners]
    notes = [latency] if latency else []
    if all("frechet_distance" in w for w in winners):
        columns["Frechet distance"] = [f"{w['frechet_distance']:.3g}" for w in winners]
        notes.append(f"{LABEL}.")
    stages = {"tolerance": columns["tolerance"]} | {
        stage: [marked(stage, w["candidate"][stage], surrogates) for w in winners]
        for stage in winners[0]["candidate"]
    }
    if any(cell.endswith(MARK) for cells in stages.values() for cell in cells):
        notes.append(f"{MARK} Calibration did not make this surrogate better than leaving it out.")
    return "\n\n".join([_markdown(columns), _markdown(stages), *notes]) + "\n"


def _markdown(columns: Mapping[str, Sequence[str]]) -> str:
    rows = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
