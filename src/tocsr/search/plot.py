"""The picture of a search: what every candidate costs and how far it is from the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tocsr.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from tocsr.search.objectives import Objective

_GREY, _BLUE, _RED = "#8a8f98", "#2563a8", "#c2410c"


def write_front(
    path: Path,
    records: Sequence[dict[str, Any]],
    front: Sequence[dict[str, Any]],
    winners: Sequence[dict[str, Any]],
    tolerances: Sequence[float],
    teacher_power: float,
    objective: Objective,
    selected: dict[str, Any] | None = None,
    budget: float | None = None,
) -> None:
    """Draws cost against relative gap, both on logarithmic axes.

    A gap of 0, the teacher's own, stands as a triangle on the lower edge.

    Args:
        path: The PNG file to write.
        records: All evaluations, lines of the ledger.
        front: Those that no other one beats in cost and gap, cheapest first.
        winners: Those of the tolerances.
        tolerances: The grid, in units of the gap.
        teacher_power: What a gap is divided by.
        objective: What the cost is.
        selected: The winner that was taken.
        budget: What it was to cost, in units of the objective.
    """
    figure = Figure(figsize=(7.5, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Axes = figure.add_subplot(
        xscale="log",
        yscale="log",
        xlabel=f"{objective.unit} of the U-Net",
        ylabel="gap to the teacher, relative to the teacher's power",
    )
    positive = [r["relative_gap"] for r in records if r["relative_gap"] > 0]
    lower = min([*positive, *(t / teacher_power for t in tolerances)]) / 2
    _draw_tolerances(axes, tolerances, teacher_power)
    _draw_evaluations(axes, records, objective.key, lower)
    x, y = _places(front, objective.key, lower)
    axes.step(x, y, where="post", color=_BLUE, linewidth=1.2, label="front, as measured")
    x, y = _places(winners, objective.key, lower)
    axes.plot(x, y, "o", color=_BLUE, markersize=6, label="winner of a tolerance")
    if budget is not None:
        axes.axvline(budget, color=_RED, linewidth=1, linestyle="--", label="budget")
    if selected is not None:
        x, y = _places([selected], objective.key, lower)
        axes.plot(x, y, "*", color=_RED, markersize=15, label="selected")
    _finish(axes)
    with whole_file(path) as part:
        figure.savefig(part, format="png")


def _places(
    records: Sequence[dict[str, Any]], key: str, lower: float
) -> tuple[list[float], list[float]]:
    return [r[key] for r in records], [r["relative_gap"] or lower for r in records]


def _draw_tolerances(axes: Axes, tolerances: Sequence[float], teacher_power: float) -> None:
    for tolerance in tolerances:
        height = tolerance / teacher_power
        axes.axhline(height, color=_GREY, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"tolerance {tolerance:g}",
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(-3, 2),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color=_GREY,
        )


def _draw_evaluations(
    axes: Axes, records: Sequence[dict[str, Any]], key: str, lower: float
) -> None:
    most = max(r["num_samples"] for r in records)
    kinds = (
        ("evaluated", ".", [r for r in records if r["gap"] > 0 and r["num_samples"] == most]),
        ("abandoned", "x", [r for r in records if r["num_samples"] < most]),
        ("gap 0", "v", [r for r in records if r["gap"] == 0]),
    )
    for label, marker, some in kinds:
        if some:
            x, y = _places(some, key, lower)
            axes.plot(x, y, marker, color=_GREY, markersize=5, linestyle="none", label=label)


def _finish(axes: Axes) -> None:
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def _short(value: float) -> str:
    """A number of an axis: 2 M, 500 k, 0.5."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
