"""Time of one tile in each engine that is installed, side by side in one process.

python benchmarks/backends.py [MODEL ...] [--pixels 512] [--num_runs 20] [--num_threads 1]

A round runs every engine once, so that whatever else the machine does meets all of them alike; the
first two rounds are left out. The ratio is to ONNX Runtime's time of the same round, its median
over the rounds. Opening leaves out PyTorch's import, which the benchmark itself needs. The last
column is the largest difference to PyTorch in float32.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tocsr.deploy.graphs import ENGINES, INT8_FORM, is_installed, open_graph
from tocsr.deploy.model_facts import ModelFacts
from tocsr.deploy.tiling import position_noise
from tocsr.deploy.torch_session import TorchGraph
from tocsr.preset_files import SHIPPED_MODEL

if TYPE_CHECKING:
    from tocsr.deploy.graphs import Graph

NUM_WARM_UP = 2


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", nargs="*", type=Path, default=[SHIPPED_MODEL])
    parser.add_argument("--pixels", type=int, default=512, help="Side of a tile's result.")
    parser.add_argument("--num_runs", type=int, default=20)
    parser.add_argument("--num_threads", type=int, default=1)
    return parser.parse_args()


def graphs_of(folder: Path, num_threads: int) -> dict[str, tuple[Graph, float]]:
    """Each engine's graph, with the seconds that opening it took."""
    graphs: dict[str, tuple[Graph, float]] = {}
    for name in ENGINES:
        if is_installed(name) and (name != "openvino-int8" or (folder / INT8_FORM).is_file()):
            started = time.perf_counter()
            graph = open_graph(folder, name, "cpu", num_threads)
            graphs[name] = graph, time.perf_counter() - started
    return graphs


def main() -> None:
    """Prints a table for each model."""
    asked = options()
    for folder in asked.models:
        facts = ModelFacts.read(folder / "upscaler.json")
        side, latent = asked.pixels, asked.pixels // facts.latent_stride
        rng = np.random.default_rng(0)
        image = rng.uniform(-1, 1, (1, 3, side, side)).astype(np.float32)
        noise = position_noise(0, 0, 0, latent, latent, facts.latent_channels)[None]
        graphs = graphs_of(folder, asked.num_threads)
        seconds: dict[str, list[float]] = {name: [] for name in graphs}
        results = {}
        for _ in range(asked.num_runs + NUM_WARM_UP):
            for name, (graph, _) in graphs.items():
                started = time.perf_counter()
                results[name] = graph(image, noise)
                seconds[name].append(time.perf_counter() - started)
        exact = TorchGraph(folder, num_threads=asked.num_threads, bfloat16=False)(image, noise)
        print(f"{folder.name}, {side} x {side}, {asked.num_threads} threads")
        print("| engine | opening s | median ms | 95th percentile ms | ratio | levels off |")
        print("|---|---|---|---|---|---|")
        for name, (graph, opening) in graphs.items():
            times = np.array(seconds[name][NUM_WARM_UP:])
            ratio = np.median(times / np.array(seconds["onnx"][NUM_WARM_UP:]))
            off = 127.5 * np.abs(results[name] - exact).max()
            middle, late = 1000 * np.percentile(times, (50, 95))
            print(
                f"| {graph.engine} | {opening:.2f} | {middle:.0f} | {late:.0f} | {ratio:.2f} | "
                f"{off:.4f} |"
            )


if __name__ == "__main__":
    main()
