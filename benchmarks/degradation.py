"""Images per second of each degradation, and the share of its time that each operator takes.

    python benchmarks/degradation.py [--threads 1 2] [--crop 256] [--photos FOLDER]

Batches of crops from photos, reduced by the factor; every round degrades other samples. The rounds
of all settings alternate, so that a machine that is busy for a while is so for all of them; the
spread is that of the rounds. The second table counts the processor's time, on one thread, in rounds
of its own: what else runs on the machine adds little to it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

from tocsr.config import DataConfig, Source
from tocsr.data.degradation import second_order
from tocsr.data.degrade import degrade
from tocsr.data.images import PhotoCrops

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

Clock = Callable[[], float]
OPERATORS = {
    "blur": ("blur_images", "kernel"),
    "resize": ("resize",),
    "Gaussian noise": ("add_gaussian_noise",),
    "Poisson noise": ("add_poisson_noise",),
    "JPEG": ("pillow_jpeg",),
    "draws": ("draw", "_generator"),
}


def crops(photos: str, num: int, crop: int) -> Tensor:
    data = PhotoCrops(DataConfig(sources=[Source(path=photos)], crop=crop), 0, num)
    return torch.stack([data[index][0] for index in range(num)])


def one_round(
    images: Tensor, factor: int, degradation: str, number: int, clock: Clock = time.perf_counter
) -> float:
    """Seconds of one batch."""
    indices = [number * len(images) + i for i in range(len(images))]
    started = clock()
    degrade(images, factor, degradation, 0, indices)
    return clock() - started


@contextmanager
def timed_operators() -> Iterator[dict[str, float]]:
    """Seconds of the processor that each operator takes inside the context."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(operator: str, work: Any) -> Any:
        def run(*args: Any) -> Any:
            started = time.process_time()
            result = work(*args)
            seconds[operator] += time.process_time() - started
            return result

        return run

    with ExitStack() as stack:
        for operator, names in OPERATORS.items():
            for name in names:
                work = timed(operator, getattr(second_order, name))
                stack.enter_context(mock.patch.object(second_order, name, work))
        yield seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", default="builtin")
    parser.add_argument("--degradations", nargs="+", default=["bicubic", "mild", "hard"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args(argv)
    images = crops(options.photos, options.batch, options.crop)
    settings = [(name, threads) for name in options.degradations for threads in options.threads]
    rounds: dict[tuple[str, int], list[float]] = defaultdict(list)
    for number in range(-1, options.rounds):  # the first warms up and does not count
        for name, threads in settings:
            torch.set_num_threads(threads)
            seconds = one_round(images, options.factor, name, number + 1)
            rounds[name, threads] += [seconds] if number >= 0 else []
    print("| degradation | threads | images per second, median | slowest to fastest round |")
    print("|---|---|---|---|")
    for (name, threads), seconds in rounds.items():
        rates = sorted(len(images) / second for second in seconds)
        median = statistics.median(rates)
        print(f"| {name} | {threads} | {median:.1f} | {rates[0]:.1f} to {rates[-1]:.1f} |")
    torch.set_num_threads(1)
    print("\n| degradation | CPU ms per image |", " | ".join([*OPERATORS, "rest"]), "|")
    print("|---" * (3 + len(OPERATORS)) + "|")
    for name in options.degradations:
        with timed_operators() as taken:
            total = sum(
                one_round(images, options.factor, name, number, time.process_time)
                for number in range(options.rounds)
            )
        shares = [*(taken[operator] for operator in OPERATORS), total - sum(taken.values())]
        cells = " | ".join(f"{share / total:.0%}" for share in shares)
        per_image = 1000 * total / options.rounds / len(images)
        print(f"| {name} | {per_image:.1f} | {cells} |")


if __name__ == "__main__":
    main()
