"""Runs a recipe in child processes that are killed (-9) at random moments until one finishes.

    python killed_recipe.py PRESET RUNS SEED

The children are forks of this process, which has imported everything and computed nothing.
Prints how many children were killed. SEED < 0 kills none.
"""

import os
import random
import signal
import sys
import time

import torch

from tocsr.options import read_config
from tocsr.recipe import run
from tocsr.runs import silent


def child(preset: str, runs: str) -> None:
    torch.set_num_threads(1)
    run(read_config("recipe", [f"--preset={preset}", f"--runs={runs}"])[0], silent)


def main() -> None:
    preset, runs, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rng, kills = random.Random(seed), 0
    while True:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(preset, runs)
                code = 0
            finally:
                os._exit(code)
        # Later children live longer, so that the recipe ends however slow the machine.
        patience = rng.uniform(0.05, 1.5) * (1 + kills / 2) if seed >= 0 else float("inf")
        deadline = time.monotonic() + patience
        done, status = 0, 0
        while not done and time.monotonic() < deadline:
            done, status = os.waitpid(pid, os.WNOHANG)
            time.sleep(0.005)
        if done:
            print(kills)
            sys.exit(os.waitstatus_to_exitcode(status))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1


if __name__ == "__main__":
    main()
