"""The gap of every architecture of a space: the truth that searches are held against.

    python benchmarks/search_truth.py --preset tiny --runs runs/tiny --rows 4 --out truth.json

The space: of each stage the teacher's own block, where the library has it, and of its calibrated
surrogates as many as `--rows` allows, spread evenly over their parameters, both ends among them.
Every gap (Eq. 11) is computed as the phase search computes it. The table that is written holds, by
stage and row, names, parameters and held-out calibration losses, and the gap of each candidate;
`search_strategies.py` reads it. A stopped command goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tocsr.files import append_json_line, read_json_lines, write_json
from tocsr.models.folders import load_surrogates, load_unet, load_vae
from tocsr.models.library import library_costs
from tocsr.options import read_config
from tocsr.runs import read_result
from tocsr.search.fidelity import capture_targets
from tocsr.search.objectives import PIXELS, Costs
from tocsr.search.prefixes import FidelityGap
from tocsr.search.space import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Sequence

CACHE_MB = 2048


def spread(costs: Sequence[float], num: int) -> list[int]:
    """At most `num` positions of a table of costs, evenly spread by cost, both ends among them."""
    order = sorted(range(len(costs)), key=lambda k: -costs[k])
    num = min(num, len(order))
    return [order[round(i * (len(order) - 1) / max(num - 1, 1))] for i in range(num)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--rows", type=int, default=4, help="Variants of a stage, at most.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--num_threads", type=int, default=0, help="CPU threads; 0 takes all.")
    options = parser.parse_args(argv)
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    told = [f"--preset={options.preset}", f"--runs={options.runs}"]
    config = read_config("search", told)[0]
    folder, calibrated = options.runs / "expand-unet", read_result(options.runs / "calibrate")
    if calibrated is None:
        parser.error(f"{options.runs} holds no finished calibrate")
    teacher = load_unet(folder / "unet").requires_grad_(False)
    vae = load_vae(folder / "vae").requires_grad_(False)
    whole = calibrated["library"]
    counted = Costs(library_costs(teacher, whole, PIXELS))
    space = SearchSpace(counted.by_stage("params"))
    kept = [spread(table, options.rows) for table in space.costs]
    library = {s: [whole[s][k] for k in ks] for s, ks in zip(whole, kept, strict=True)}
    surrogates = load_surrogates(
        teacher, options.runs / "calibrate" / "surrogates", calibrated["surrogates"]
    )
    targets = capture_targets(
        teacher, vae, config.data, config.num_samples, config.batch_size, config.seed, CACHE_MB
    )
    gap = FidelityGap(teacher, surrogates, targets, CACHE_MB)
    ledger = options.out.with_suffix(".jsonl")
    gaps = {record["candidate"]: record["gap"] for record in read_json_lines(ledger)}
    num = math.prod(map(len, kept))
    for candidate in itertools.product(*(range(len(ks)) for ks in kept)):
        key = ",".join(map(str, candidate))
        if key in gaps:
            continue
        choice = {s: library[s][k] for s, k in zip(library, candidate, strict=True)}
        gaps[key] = gap(choice).gap
        append_json_line(ledger, {"candidate": key, "gap": gaps[key]})
        if len(gaps) % 500 == 0:
            print(f"{len(gaps)} of {num}", file=sys.stderr, flush=True)
    table = {
        "stages": list(library),
        "library": library,
        "costs": [[space.costs[i][k] for k in ks] for i, ks in enumerate(kept)],
        "proxies": [
            [
                calibrated["surrogates"].get(f"{s}/{name}", {}).get("heldout_loss", 0.0)
                for name in names
            ]
            for s, names in library.items()
        ],
        "gaps": gaps,
        "tolerances": list(config.tolerances),
    }
    write_json(options.out, table)
    ledger.unlink()
    for stage, names in library.items():
        print(f"{stage}: {', '.join(names)}")
    print(f"{len(gaps)} candidates")


if __name__ == "__main__":
    main()
