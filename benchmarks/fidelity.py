"""Candidates per second: the plain way, with shared prefixes, and with early abandonment.

    python benchmarks/fidelity.py --preset tiny --runs runs/tiny

The plain way assembles each candidate and computes it whole on the calibration set (Eq. 11). The
gaps must be the same to the last bit in every way but the abandoned ones. Two sets of candidates:
random ones, and all variants of some stages with the first variant at the others. Then, of the
random ones computed with shared prefixes, the share of the time that goes into convolutions, and
how far the whole is from the MACs over the rate that this machine reaches on one large convolution.

With one thread on a CPU the seconds are those that the processor worked for this process, so that
what else the machine does counts little; otherwise they are those of the clock on the wall.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812
from torch.profiler import ProfilerActivity, profile

from tocsr.devices import pick_device
from tocsr.models.compact import assembled
from tocsr.models.folders import load_surrogates, load_unet, load_vae
from tocsr.models.library import LibraryCosts, library_costs
from tocsr.models.vae import LATENT_STRIDE
from tocsr.options import read_config
from tocsr.runs import read_result
from tocsr.search.fidelity import capture_targets, fidelity_gap
from tocsr.search.prefixes import FidelityGap
from tocsr.seeding import numpy_rng

Choice = dict[str, str]
CONVOLUTION = 256, 32, 16  # channels, side and batch of the convolution that gives the rate


class Bench:
    """The networks and the calibration set of a preset's search."""

    def __init__(self, options: argparse.Namespace) -> None:
        config = read_config(
            "search",
            [f"--{name}={getattr(options, name)}" for name in ("preset", "runs", "num_threads")],
        )[0]
        device = pick_device(config.device, config.num_threads)
        folder, calibrated = options.runs / "expand-unet", read_result(options.runs / "calibrate")
        assert calibrated, f"{options.runs} holds no finished calibrate"
        self.config, self.library = config, calibrated["library"]
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        self.clock = time.process_time if alone else time.perf_counter
        self.teacher = load_unet(folder / "unet").to(device).requires_grad_(False)
        vae = load_vae(folder / "vae").to(device)
        self.surrogates = load_surrogates(
            self.teacher, options.runs / "calibrate" / "surrogates", calibrated["surrogates"]
        )
        self.targets = capture_targets(
            self.teacher,
            vae,
            config.data,
            options.num_samples or config.num_samples,
            config.batch_size,
            config.seed,
            config.cache_mb,
        )

    def timed(
        self, gap_of: Callable[[Choice], Any], choices: Iterable[Choice]
    ) -> tuple[list[Any], float]:
        """What is found of each candidate, and candidates per second."""
        start = self.clock()
        found = [gap_of(choice) for choice in choices]
        return found, len(found) / (self.clock() - start)

    def shared(self, cache_mb: float | None = None) -> FidelityGap:
        """A new one, which knows nothing but the teacher's features."""
        memory = self.config.cache_mb if cache_mb is None else cache_mb
        return FidelityGap(self.teacher, self.surrogates, self.targets, memory)

    def plain(self, choice: Choice) -> float:
        return fidelity_gap(assembled(self.teacher, choice, self.surrogates), self.targets)

    def random(self, num: int) -> list[Choice]:
        rng = numpy_rng(self.config.seed, "benchmark candidates")
        return [
            {stage: names[rng.integers(len(names))] for stage, names in self.library.items()}
            for _ in range(num)
        ]

    def slice(self, stages: list[str]) -> list[Choice]:
        """Every choice at the given stages, in random order."""
        rows = [n if s in stages else n[:1] for s, n in self.library.items()]
        choices = [dict(zip(self.library, row, strict=True)) for row in itertools.product(*rows)]
        numpy_rng(self.config.seed, "benchmark slice").shuffle(choices)
        return choices


@dataclass(frozen=True)
class Way:
    """A way to evaluate candidates.

    Args:
        name: What the table calls it.
        gap_of: The shared evaluation, new.
        in_order: Whether candidates come sorted by their choices.
        abandon_above: The gap from which evaluation stops.
    """

    name: str
    gap_of: FidelityGap
    in_order: bool = False
    abandon_above: float = math.inf


def ways(bench: Bench) -> list[Way]:
    """All but the plain one."""
    teacher = sum(t.features_bytes for t in bench.targets) / 2**20
    tight = 3 * teacher
    least, largest = min(bench.config.tolerances), max(bench.config.tolerances)
    return [
        Way("stage by stage, nothing kept", bench.shared(0)),
        Way(f"shared prefixes in {tight:.0f} MiB", bench.shared(tight)),
        Way(f"shared prefixes in {tight:.0f} MiB", bench.shared(tight), in_order=True),
        Way(f"shared prefixes in {bench.config.cache_mb} MiB", bench.shared()),
        Way("and abandoned above the largest tolerance", bench.shared(), abandon_above=largest),
        Way("and abandoned above the least", bench.shared(), abandon_above=least),
    ]


def rows(bench: Bench, name: str, choices: list[Choice]) -> list[str]:
    """The table's rows of one set of candidates; the gaps are compared."""
    gaps, plain = bench.timed(bench.plain, choices)
    known = {str(choice): gap for choice, gap in zip(choices, gaps, strict=True)}
    num_samples = sum(t.num_samples for t in bench.targets)
    made = [f"| {name}, {len(choices)} | plain | random | {plain:.2f} | 1.0 | {len(choices)} |"]
    for way in ways(bench):
        some = sorted(choices, key=lambda c: list(c.values())) if way.in_order else choices
        found, rate = bench.timed(lambda c, w=way: w.gap_of(c, w.abandon_above), some)
        for choice, measured in zip(some, found, strict=True):
            gap = known[str(choice)]
            if measured.num_samples == num_samples:
                assert measured.gap == gap, (choice, measured, gap)
            else:
                assert min(measured.gap, gap) > way.abandon_above, (choice, measured, gap)
        whole = sum(measured.num_samples == num_samples for measured in found)
        order = "sorted" if way.in_order else "random"
        made.append(f"| | {way.name} | {order} | {rate:.2f} | {rate / plain:.1f} | {whole} |")
    return made


def macs_per_second(bench: Bench) -> float:
    """The rate of one large 3 x 3 convolution, the best of five."""
    channels, side, batch = CONVOLUTION
    device = bench.teacher.device
    x = torch.randn(batch, channels, side, side, device=device)
    weight = torch.randn(channels, channels, 3, 3, device=device)
    best = float("inf")
    for _ in range(6):
        start = bench.clock()
        F.conv2d(x, weight, padding=1).sum().item()
        best = min(best, bench.clock() - start)
    return batch * (channels * 3 * side) ** 2 / best


def share_of_convolutions(work: Callable[[], object]) -> float:
    """Of the processor's time in operations."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    times = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    return sum(t for key, t in times.items() if "conv" in key) / sum(times.values())


def new_blocks(bench: Bench, choices: list[Choice]) -> dict[tuple[str, ...], str]:
    """The prefixes that shared evaluation computes, not the teacher's, and the stage of each."""
    found = {}
    for choice in choices:
        variants = tuple(choice.values())
        for number, stage in enumerate(choice, 1):
            if set(variants[:number]) != {"teacher"}:
                found[variants[:number]] = stage
    return found


def floor_lines(bench: Bench, choices: list[Choice]) -> list[str]:
    """How the time of shared evaluation compares with that of its MACs."""
    costs: LibraryCosts = library_costs(bench.teacher, bench.library, bench.config.data.crop)
    computed = sum(
        costs.stages[stage][prefix[-1]].macs for prefix, stage in new_blocks(bench, choices).items()
    )
    side = bench.config.data.crop // LATENT_STRIDE
    last = bench.teacher.conv_out.weight.numel() * side**2  # after the stages, of every candidate
    samples = sum(t.num_samples for t in bench.targets)
    whole = sum(costs.of(choice).macs for choice in choices) * samples
    macs = (computed + last * len(choices)) * samples
    rate = macs_per_second(bench)
    in_order = sorted(choices, key=lambda choice: list(choice.values()))
    seconds = len(choices) / bench.timed(bench.shared(), in_order)[1]
    gap_of = bench.shared()
    share = share_of_convolutions(lambda: [gap_of(choice) for choice in in_order])
    return [
        f"- one large convolution: {rate / 1e9:.0f} GMAC/s",
        f"- MACs of {len(choices)} random candidates, sorted: {macs / 1e9:.0f} G with shared "
        f"prefixes, {whole / 1e9:.0f} G without",
        f"- time: {seconds:.2f} s, {seconds * rate / macs:.1f} times that of the MACs at this rate",
        f"- share of convolutions in the time of all operations: {share:.0%}",
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--runs", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--num_samples", type=int, help="In place of the preset's.")
    parser.add_argument("--num", type=int, default=64, help="Random candidates.")
    parser.add_argument("--slice", nargs="+", default=["D2", "D1"], help="Stages of the slice.")
    parser.add_argument("--num_threads", type=int, default=0, help="CPU threads; 0 takes all.")
    options = parser.parse_args(argv)
    bench = Bench(options)
    random, part = bench.random(options.num), bench.slice(options.slice)
    samples = sum(t.num_samples for t in bench.targets)
    size = bench.targets[0].features_bytes / 2**20
    print(f"{samples} samples, features of a batch {size:.1f} MiB\n")
    print("| candidates | way | order | a second | times plain | measured on all samples |")
    print("|---|---|---|---|---|---|")
    print("\n".join(rows(bench, "random", random)))
    print("\n".join(rows(bench, f"all of {' x '.join(options.slice)}", part)))
    print("", *floor_lines(bench, random), sep="\n")


if __name__ == "__main__":
    main()
