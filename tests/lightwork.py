"""What the workers in the tests of tasks do; imports nothing heavy, so that they start fast.

    python lightwork.py FOLDER

calls two workers that write their process numbers into FOLDER; then one sleeps, one is idle.
"""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from tocsr.errors import ExitCode, TocsrError
from tocsr.tasks import executor


def square(task: int) -> int:
    return task * task


def pid(_: object) -> int:
    return os.getpid()


def num_threads(_: object) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def has_torch(_: object) -> bool:
    return "torch" in sys.modules


def note(folder: Path, task: int) -> int:
    """Leaves a file per attempt, and returns how many there were before."""
    before = len(list(folder.glob(f"{task}.*")))
    (folder / f"{task}.{before}").write_text(str(os.getpid()))
    return before


def die(folder: Path, deadly: set[int], num_times: int, task: int) -> int:
    """Squares a task; a deadly one kills its worker so many times before."""
    if note(folder, task) < num_times and task in deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    return square(task)


def refuse(task: int) -> int:
    if task:
        raise TocsrError(f"no {task}", "take 0", ExitCode.MODEL)
    return task


def divide(task: int) -> float:
    return 1 / task


def sleep(folder: Path, seconds: float) -> float:
    note(folder, int(seconds))
    time.sleep(seconds)
    return seconds


if __name__ == "__main__":
    with executor(2) as two:
        list(two.map(partial(note, Path(sys.argv[1])), range(8)))
        list(two.map(partial(sleep, Path(sys.argv[1])), [1000]))
