"""The processes of one launch by torchrun; without it, this one alone.

All of them train. The main one, rank 0, alone writes to the run folder, and the others wait where
they need what it wrote. PyTorch is imported where processes meet, so that `--help` is instant.
"""

from __future__ import annotations

import os
from datetime import timedelta
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from tocsr.errors import TocsrError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def num_processes() -> int:
    """Number of processes of this launch."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def local_rank() -> int:
    """Number of this process on its machine, counted from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if num_processes() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes."""
    return num_processes() == 1 or os.environ["RANK"] == "0"


def main_only(work: Callable[P, object]) -> Callable[P, None]:
    """Makes a function that the main process carries out and the others leave out, unwaiting."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if is_main():
            work(*args, **kwargs)

    return run


def from_main(work: Callable[P, T]) -> Callable[P, T]:
    """Makes a function that begins once all processes call it and is the main process's work.

    What it returns or raises as a `TocsrError`, and the files it wrote, are there for all of them
    afterwards. With any other error the main process ends, and the launcher ends the others.
    """

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if num_processes() == 1:
            return work(*args, **kwargs)
        from torch import distributed

        distributed.barrier(_waiting_group())
        outcome: list[Any] = [None, None]
        if is_main():
            try:
                outcome[0] = work(*args, **kwargs)
            except TocsrError as error:
                outcome[1] = error
        distributed.broadcast_object_list(outcome, 0, _waiting_group())
        if outcome[1]:
            raise outcome[1]
        return outcome[0]

    return run


@cache
def _store() -> Any:
    """The launcher's notes, which every process reads and writes, also when another one is gone."""
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://"))
    return store


@cache
def _waiting_group() -> Any:
    """All processes, on CPU, patient: the main one may search for days while the others wait."""
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        # accelerate takes this group as its own
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=_store(),
            rank=int(os.environ["RANK"]),
            world_size=num_processes(),
        )
    return distributed.new_group(backend="gloo", timeout=timedelta(days=30))


def first_to_fail(code: int) -> int | None:
    """Tells the other processes that this one ends with an exit code above 0.

    A process whose peer is gone fails too; only the first to fail knows the reason.

    Returns:
        None where this process is the first, else the code of the one that was.
    """
    if num_processes() == 1:
        return None
    own = f"{os.environ['RANK']} {code}"
    try:
        first = _store().compare_set("tocsr/failed", "", own).decode()
    except RuntimeError:  # the process that held the store is gone, so it was the first
        return code
    return None if first == own else int(first.split()[1])


def leave() -> None:
    """Parts from the other processes, at the end of work that all of them finished."""
    if num_processes() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.barrier(_waiting_group())  # nobody still receives
            distributed.destroy_process_group()
