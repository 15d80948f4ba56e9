"""A run folder: what a phase was asked, what it logged, what it made, and where it goes on.

```
runs/tiny/calibrate/
  config.yaml             the resolved configuration
  metrics.jsonl           one line per logged optimiser step
  tensorboard/            the same as scalars, where it is asked for
  checkpoint.safetensors  full training state, while the phase is under way
  <model folders>         what the phase made
  result.json             written last: the phase is finished
```

Of several processes the main one writes and the others read.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from tocsr.errors import ExitCode, TocsrError
from tocsr.files import append_json_line, read_json_lines, write_json, write_text
from tocsr.processes import from_main, is_main, main_only

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

    from tocsr.config import PhaseConfig

# How and where a run is computed may change when it goes on; what it computes may not.
_MAY_CHANGE = {
    "runs",
    "device",
    "num_threads",
    "num_workers",
    "cache_mb",
    "checkpoint_every",
    "gradient_checkpointing",
    "tensorboard",
    "workers",
    "ray",
    "group_params",
}


class Report(Protocol):
    """Receives progress: a label, steps done, steps in all, and named figures."""

    def __call__(self, label: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        """Takes one report."""


class Network(Protocol):
    """What is kept as a folder."""

    def save_pretrained(self, folder: Path, /) -> object:
        """Writes the folder."""


def silent(label: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
    """The report that says nothing."""


def as_plain(config: object) -> Any:
    """A configuration as nested dicts, lists, strings and numbers."""
    if is_dataclass(config) and not isinstance(config, type):
        return as_plain(asdict(config))
    if isinstance(config, dict):
        return {key: as_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [as_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def _differing_keys(before: Any, now: Any, prefix: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        either = (before.keys() | now.keys()) - _MAY_CHANGE
        keys = sorted(either, key=lambda key: (key != "preset", key))  # another preset says it all
        return [
            name
            for key in keys
            for name in _differing_keys(before.get(key), now.get(key), f"{prefix}{key}.")
        ]
    return [] if before == now else [f"{prefix.rstrip('.')} (was {before}, now {now})"]


def _with_defaults(before: dict[str, Any], config: Any) -> dict[str, Any]:
    """Settings written by an earlier version, with those it did not have at their defaults."""
    completed = dict(before)
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        if name not in before and field.default is not MISSING:
            completed[name] = as_plain(field.default)
        elif is_dataclass(value) and isinstance(before.get(name), dict):
            completed[name] = _with_defaults(before[name], value)
        elif isinstance(value, list) and len(value) == len(before.get(name) or ()):
            pairs = zip(before[name], value, strict=True)
            completed[name] = [_with_defaults(b, v) if is_dataclass(v) else b for b, v in pairs]
    return completed


@dataclass
class Run:
    """One run folder, held by this launch alone while open.

    Args:
        folder: Where it lies; made when missing.
    """

    folder: Path
    _lock: IO[str] | None = None

    @classmethod
    def open(cls, config: PhaseConfig) -> Run:
        """Opens the folder of a phase, new or to go on in.

        Raises:
            TocsrError: Another process works in it, or it was begun with other settings.
        """
        run = cls(config.folder)
        run._take(config)
        return run

    @from_main
    def _take(self, config: PhaseConfig) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise TocsrError(
                f"one process at a time may work in {self.folder} and another one does",
                "wait for it, or give this one another --runs folder",
            ) from None
        self._lock = lock
        self._check_config(config)

    def _check_config(self, config: PhaseConfig) -> None:
        path, now = self.folder / "config.yaml", as_plain(config)
        if not path.exists():
            write_text(path, yaml.safe_dump(now, sort_keys=False))
            return
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        changed = _differing_keys(_with_defaults(before, config), now)
        if changed:
            raise TocsrError(
                f"{self.folder} was begun with other settings: {', '.join(changed[:4])}",
                "repeat them, name another --runs folder, or remove this one",
            )

    def close(self) -> None:
        """Lets other processes in."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sub(self, name: str) -> Run:
        """A folder inside this one for a part of the phase with a training of its own."""
        return Run(self.folder / name)

    @property
    def checkpoint(self) -> Path:
        """The file of the training state."""
        return self.folder / "checkpoint.safetensors"

    @from_main
    def result(self) -> dict[str, Any] | None:
        """What the finished phase reported, or None while it is under way."""
        return read_result(self.folder)

    @main_only
    def save(self, network: Network, name: str = "") -> None:
        """Writes a network's folder, inside this one or in its place."""
        network.save_pretrained(self.folder / name)

    @from_main
    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Marks the phase as finished; its weights must be on disk by now."""
        write_json(self.folder / "result.json", result)
        self.checkpoint.unlink(missing_ok=True)
        return result

    @main_only
    def log(self, record: dict[str, Any]) -> None:
        """Appends one line to `metrics.jsonl`."""
        append_json_line(self.folder / "metrics.jsonl", record)

    def records(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        return read_json_lines(self.folder / "metrics.jsonl")

    @main_only
    def rewind_log(self, step: int) -> None:
        """Drops the lines logged after `step`, which will be made again."""
        path = self.folder / "metrics.jsonl"
        kept = [r for r in self.records() if r["step"] <= step]
        if path.exists():
            write_text(path, "".join(json.dumps(record) + "\n" for record in kept))


def phase(work: Callable[[Any, Run, Report], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Makes `run(config, report=silent)` of a phase's work.

    The run folder is opened, a finished phase gives its result again, and what the work returns is
    the result. The work must be able to go on from whatever it left in the folder. All processes
    work; the main one reports.
    """

    @wraps(work)
    def run(config: PhaseConfig, report: Report = silent) -> dict[str, Any]:
        with Run.open(config) as folder:
            told = report if is_main() else silent
            return folder.result() or folder.finish(work(config, folder, told))

    return run


def read_result(folder: Path) -> dict[str, Any] | None:
    """The `result.json` of a run folder, or None while it is not finished."""
    path = folder / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def require_result(config: PhaseConfig, verb: str) -> dict[str, Any]:
    """The result of an earlier phase of the same recipe.

    Raises:
        TocsrError: That phase is not finished.
    """
    folder = config.runs / verb
    result = read_result(folder)
    if result is None:
        raise TocsrError(
            f"{config.verb} starts from a finished {verb} and {folder} holds none",
            f"run: tocsr {verb} --preset {config.preset} --runs {config.runs}",
            ExitCode.MODEL,
        )
    return result
