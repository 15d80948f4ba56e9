"""search: the smallest faithful candidate for each tolerance of a grid (paper 3.2.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tocsr.devices import pick_device
from tocsr.errors import TocsrError
from tocsr.files import append_json_line, read_json_lines
from tocsr.models.compact import assembled
from tocsr.models.cost import stage_params
from tocsr.models.folders import load_surrogates, load_unet, load_vae
from tocsr.models.variants import TEACHER
from tocsr.processes import from_main
from tocsr.runs import phase, require_result
from tocsr.search.bayesopt import Candidate, SearchSpace, optimize
from tocsr.search.fidelity import Targets, capture_targets, objectives, teacher_power

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tocsr.models.compact import CompactUNet
    from tocsr.runs import Report, Run
    from tocsr.search.configs import SearchConfig

Library = dict[str, list[str]]  # stage -> its variants' names


def search_space(
    teacher: CompactUNet, library: Library, surrogates: Mapping[str, Any]
) -> SearchSpace:
    """The parameters of every variant of every stage, in the order of the library (Eq. 10)."""
    own = stage_params(teacher)
    costs = tuple(
        tuple(
            float(own[stage] if name == TEACHER else surrogates[f"{stage}/{name}"]["params"])
            for name in names
        )
        for stage, names in library.items()
    )
    return SearchSpace(costs)


def named(library: Library, candidate: Candidate) -> dict[str, str]:
    """A candidate's choices by name, stage -> variant."""
    return {
        stage: names[choice]
        for (stage, names), choice in zip(library.items(), candidate, strict=True)
    }


def read_ledger(path: Path, library: Library) -> dict[Candidate, dict[str, Any]]:
    """The ledger's lines by candidate, in the order of observing.

    Raises:
        TocsrError: The ledger is of another library.
    """
    records = {}
    for record in read_json_lines(path):
        choice = record["candidate"]
        if any(choice.get(stage) not in names for stage, names in library.items()):
            raise TocsrError(
                f"{path} was made with other surrogates than calibrate now has",
                "remove the search folder, or name another --runs folder",
            )
        records[tuple(names.index(choice[stage]) for stage, names in library.items())] = record
    return records


def _inputs(
    config: SearchConfig, names: Iterable[str]
) -> tuple[CompactUNet, dict[str, Any], list[Targets]]:
    """The teacher, the calibrated surrogates of these names, and the calibration set."""
    device = pick_device(config.device, config.num_threads)
    folder = config.runs / "expand-unet"
    teacher = load_unet(folder / "unet").to(device).requires_grad_(False)
    vae = load_vae(folder / "vae").to(device).requires_grad_(False)
    surrogates = load_surrogates(teacher, config.runs / "calibrate" / "surrogates", names)
    targets = capture_targets(
        teacher, vae, config.data, config.num_samples, config.batch_size, config.seed
    )
    return teacher, surrogates, targets


@phase
@from_main
def run(config: SearchConfig, run: Run, report: Report) -> dict[str, Any]:
    """Evaluates candidates chosen by Bayesian optimisation; each is a line of `ledger.jsonl`."""
    calibrated = require_result(config, "calibrate")
    library: Library = calibrated["library"]
    teacher, surrogates, targets = _inputs(config, calibrated["surrogates"])
    power, space = teacher_power(targets), search_space(teacher, library, calibrated["surrogates"])
    total = config.num_initial + len(config.tolerances) * config.num_iterations
    ledger = run.folder / "ledger.jsonl"
    records = read_ledger(ledger, library)

    def evaluate(candidate: Candidate) -> float:
        choice = named(library, candidate)
        params, gap = objectives(assembled(teacher, choice, surrogates), targets)
        record = {"candidate": choice, "params": params, "gap": gap, "relative_gap": gap / power}
        append_json_line(ledger, record)
        records[candidate] = record
        report("search", len(records), total, {"gap": gap})
        return gap

    found = optimize(
        space,
        evaluate,
        config.tolerances,
        config.num_initial,
        config.num_iterations,
        config.seed,
        {candidate: record["gap"] for candidate, record in records.items()},
    )
    winners = [
        {"tolerance": tolerance, **records[winner]}
        for tolerance, winner in found.winners.items()
        if winner is not None
    ]
    if not winners:
        raise TocsrError(
            f"no candidate has a gap of at most {max(config.tolerances)}; the least seen is "
            f"{min(found.observations.values()):.4g}",
            "raise tolerances, or calibrate longer",
        )
    return {
        "winners": winners,
        "evaluations": len(found.observations),
        "candidates": space.num_candidates,
        "teacher_power": power,
    }
