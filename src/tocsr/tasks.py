"""The executor of independent tasks: in this process, in several of this machine, or on Ray.

Not in the paper: it says what is computed, not where. A task may be carried out more than once,
where a worker died, so what it writes must be the same each time and appear whole
(`tocsr.files.whole_file`).

Outside this process tasks and results travel by pickle. The work is a function of a module, or a
`functools.partial` of one, and small: networks and photos are loaded where the work is done, by a
function behind `functools.cache`, once per worker. What is large goes to a file; on Ray, to a
folder that all its machines see under one path. They need the same tocsr as the caller.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tocsr.errors import ExitCode, TocsrError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection

T = TypeVar("T")
R = TypeVar("R")

# A task during which a worker died so often is given up, and with so many given up all others are:
# then the machine or the program is at fault, and not the task.
MAX_DEATHS = 3
MAX_GIVEN_UP = 3


class Executor(Protocol):
    """Carries out independent tasks."""

    def map(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        """Yields (index of the task, what `work` made of it) as tasks finish, every task once.

        One map at a time: the next one begins when this one is exhausted or closed.

        Raises:
            TocsrError: Workers died `MAX_DEATHS` times during a task; all others were yielded
                before, unless `MAX_GIVEN_UP` tasks ended so.
            Exception: What `work` raised, as it was, at once; the other tasks are ended.
        """

    def close(self) -> None:
        """Ends the workers, whatever they do."""


@contextmanager
def executor(workers: int = 1, ray: str = "") -> Iterator[Executor]:
    """In this process, in `workers` spawned processes of this machine, or on a Ray cluster.

    A spawned process gets its share of the cores in threads, unless OMP_NUM_THREADS is set. A task
    on Ray asks for one CPU and no GPU; how many run at a time is the cluster's affair.

    Args:
        workers: Number of processes; 1 without `ray` is this process alone.
        ray: "" for none, "local" to start one on this machine with `workers` CPUs, else the
            address of a cluster: `auto` on one of its machines, `ray://HOST:PORT` elsewhere. Where
            this program is connected to one already, that one is taken.

    Raises:
        TocsrError: A number or address that cannot be, no package ray, or no cluster.
    """
    if workers < 1:
        raise TocsrError(f"workers must be at least 1, got {workers}", "1 is this process alone")
    chosen: Executor = _InProcess()
    if ray:
        chosen = _Ray(ray, workers)
    elif workers > 1:
        chosen = _Processes(workers)
    try:
        yield chosen
    finally:
        chosen.close()


def _given_up(lost: Iterable[int], tasks: Sequence[object]) -> TocsrError:
    named = [f"{index + 1} of {len(tasks)} ({tasks[index]!r:.100})" for index in sorted(lost)]
    return TocsrError(
        f"workers must outlive their tasks, but {MAX_DEATHS} or more died during task {named[0]}"
        + (f" and each of {len(named) - 1} others" if named[1:] else ""),
        "a system short of memory kills them: use fewer workers, smaller tasks or more memory",
        ExitCode.RESOURCES,
    )


class _InProcess:
    """This process, one task after the other; nothing is pickled."""

    def map(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        for index, task in enumerate(tasks):
            yield index, work(task)

    def close(self) -> None:
        pass


_SPAWN = get_context("spawn")  # a fork of a process that has threads, as torch's has, may hang


class _Worker:
    """One spawned process in a pool of its own, so that its death harms no task but its own."""

    def __init__(self, num_threads: int) -> None:
        self._reader, self._leash = _SPAWN.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(1, _SPAWN, _begin, (self._reader, num_threads))

    def submit(self, work: Callable[[T], R], task: T) -> Future[R]:
        return self._pool.submit(work, task)

    def end(self) -> None:
        """Ends the process in the midst of its task, and waits until it is gone."""
        if not self._leash.closed:
            self._leash.send(None)  # closing alone goes unnoticed while a fork holds a copy
            self._leash.close()
            self._pool.shutdown(cancel_futures=True)
            self._reader.close()


def _begin(leash: Connection, num_threads: int) -> None:
    """What a worker does before its first task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's, who ends the workers
    Thread(target=_end_with_caller, args=(leash,), daemon=True).start()
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(num_threads)
        if "torch" in sys.modules:  # the caller's script loaded it, and it has read the variable
            sys.modules["torch"].set_num_threads(num_threads)


def _end_with_caller(leash: Connection) -> None:
    """Ends this process when the caller says so, or is gone."""
    leash.poll(None)
    os._exit(1)


def _num_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Processes:
    """Several processes of this machine."""

    def __init__(self, num_workers: int) -> None:
        self._num_threads = max(1, _num_cores() // num_workers)
        self._idle = [_Worker(self._num_threads) for _ in range(num_workers)]
        self._running: dict[Future[Any], tuple[int, _Worker]] = {}

    def map(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        assert not self._running, "one map at a time"
        todo = deque(range(len(tasks)))
        deaths: Counter[int] = Counter()
        lost: list[int] = []
        try:
            while (todo or self._running) and len(lost) < MAX_GIVEN_UP:
                self._assign(work, tasks, todo)
                results, died = self._collect()
                deaths.update(died)
                lost += [index for index in died if deaths[index] == MAX_DEATHS]
                todo.extendleft(index for index in died if deaths[index] < MAX_DEATHS)
                self._assign(work, tasks, todo)  # nobody waits for the caller
                for index, future in results:
                    yield index, future.result()
        finally:
            self._end_running()
        if lost:
            raise _given_up(lost, tasks)

    def _assign(self, work: Callable[[T], R], tasks: Sequence[T], todo: deque[int]) -> None:
        """Gives the next tasks to the idle workers."""
        while todo and self._idle:
            worker = self._idle.pop()
            try:
                self._running[worker.submit(work, tasks[todo[0]])] = todo[0], worker
            except BrokenProcessPool:  # it died while idle, of no task
                self._replace(worker)
            else:
                todo.popleft()

    def _collect(self) -> tuple[list[tuple[int, Future[Any]]], list[int]]:
        """Waits for tasks to end: those done, errors last, and those whose workers died."""
        results, died = [], []
        ended, _ = wait(self._running, return_when=FIRST_COMPLETED)
        for future in sorted(ended, key=lambda future: future.exception() is not None):
            index, worker = self._running.pop(future)
            if isinstance(future.exception(), BrokenProcessPool):
                died.append(index)
                self._replace(worker)
            else:
                results.append((index, future))
                self._idle.append(worker)
        return results, died

    def _replace(self, worker: _Worker) -> None:
        worker.end()
        self._idle.append(_Worker(self._num_threads))

    def _end_running(self) -> None:
        for _, worker in self._running.values():
            self._replace(worker)
        self._running.clear()

    def close(self) -> None:
        self._end_running()
        while self._idle:
            self._idle.pop().end()


def _carry_out(work: Callable[[T], R], task: T) -> R:
    return work(task)  # Ray takes a function, but no functools.partial


class _Ray:
    """A Ray cluster."""

    def __init__(self, address: str, num_cpus: int) -> None:
        if address not in ("local", "auto") and not address.startswith("ray://"):
            raise TocsrError(
                f"ray must be local, auto or ray://HOST:PORT, got '{address}'",
                "local starts one on this machine, auto is for a machine of the cluster",
            )
        try:
            import ray  # noqa: PLC0415

            self._ray = ray
            self._started = not ray.is_initialized()
            if self._started:
                _connect(ray, address, num_cpus)
        except ImportError as error:
            raise TocsrError(
                f"ray needs a package that is not installed: {error}",
                "run: pip install 'tocsr[ray]', or use workers of this machine",
            ) from error
        self._pending: dict[Any, int] = {}

    def map(self, work: Callable[[T], R], tasks: Sequence[T]) -> Iterator[tuple[int, R]]:
        assert not self._pending, "one map at a time"
        e = self._ray.exceptions
        deaths = (e.WorkerCrashedError, e.OutOfMemoryError, e.NodeDiedError, e.ObjectLostError)
        # counts deaths alone: what `work` raises is raised again here, not tried again
        remote = self._ray.remote(max_retries=MAX_DEATHS, retry_exceptions=False)(_carry_out)
        self._pending = {remote.remote(work, task): index for index, task in enumerate(tasks)}
        lost: list[int] = []
        try:
            while self._pending and len(lost) < MAX_GIVEN_UP:
                [done], _ = self._ray.wait(list(self._pending))
                index = self._pending.pop(done)
                try:
                    result = self._ray.get(done)
                except e.RayTaskError as error:
                    raise error.cause from error
                except deaths:
                    lost.append(index)
                else:
                    yield index, result
        finally:
            self._cancel()
        if lost:
            raise _given_up(lost, tasks)

    def _cancel(self) -> None:
        for task in self._pending:
            self._ray.cancel(task, force=True)
        self._pending.clear()

    def close(self) -> None:
        self._cancel()
        if self._started:
            self._ray.shutdown()


def _connect(ray: Any, address: str, num_cpus: int) -> None:
    """Connects this process to a cluster, which it starts for the address `local`."""
    own = {
        "num_cpus": num_cpus,
        "include_dashboard": False,
        # or a task too large for the machine is tried for ever
        "_system_config": {"task_oom_retries": MAX_DEATHS},
    }
    try:
        options = own if address == "local" else {}
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError) as error:
        raise TocsrError(
            f"a Ray cluster must answer at '{address}': {str(error).splitlines()[0]}",
            "start one with `ray start --head`, or take local, one on this machine",
        ) from error
