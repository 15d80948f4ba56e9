"""The command line: a verb, its configuration, its run. The only module that prints.

Nothing heavy is imported before the verb's own work begins.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from tocsr import __version__
from tocsr.errors import ExitCode, TocsrError, did_you_mean, is_out_of_memory, is_out_of_space
from tocsr.processes import first_to_fail, is_main, leave
from tocsr.verbs import VERBS, runner

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.progress import TaskID


def _usage() -> str:
    width = max(len(name) for name in VERBS)
    rows = [f"  {name:<{width}}  {verb.about}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            f"tocsr {__version__}: a compact one-step diffusion network that upscales photos",
            "",
            "usage: tocsr VERB [--help] [options]",
            "",
            *rows,
            "",
            "Every phase takes --preset NAME|FOLDER, --config FILE, --dry-run and one option per",
            "field; the same command goes on where it was stopped.",
            "Exit codes: 0 done, 1 some images failed, 2 usage or input, 3 model,",
            "4 memory or disk, 130 interrupted.",
        ]
    )


class _Progress:
    """A progress bar with figures and time left on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self.label, self.quarter = "", -1
        self.task: TaskID | None = None

    def __enter__(self) -> _Progress:
        if self.bar.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, label: str, done: int, total: int, figures: Mapping[str, float], /) -> None:
        text = "  ".join(f"{k} {v:.4g}" for k, v in list(figures.items())[-4:])
        if label != self.label:
            self.label, self.quarter = label, -1
            if self.task is not None:
                self.bar.update(self.task, visible=False)
            self.task = self.bar.add_task(label, total=total, figures="")
        assert self.task is not None
        self.bar.update(self.task, completed=done, total=total, figures=text)
        if not self.bar.console.is_terminal and 4 * done // max(total, 1) > self.quarter:
            self.quarter = 4 * done // max(total, 1)
            print(f"{label} {done}/{total}  {text}", file=sys.stderr, flush=True)


def show(value: Any, indent: int = 0) -> None:
    """Prints a result: nested mappings as an indented list, numbers with four digits."""
    for key, inner in value.items():
        pad = "  " * indent
        if isinstance(inner, dict):
            print(f"{pad}{key}:")
            show(inner, indent + 1)
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            print(f"{pad}{key}:")
            for row in inner:
                print(f"{pad}  - " + ", ".join(f"{k} {_short(v)}" for k, v in row.items()))
        else:
            print(f"{pad}{key}: {_short(inner)}")


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{k}={v}" for k, v in value.items())
    if isinstance(value, list):
        return " ".join(_short(v) for v in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_verb(name: str, argv: list[str]) -> ExitCode:
    """Reads the configuration of a verb, runs it and prints its result."""
    from tocsr.options import read_config

    config, dry_run = read_config(name, argv)
    if dry_run:
        from tocsr import plans

        show(plans.plan(name, config))
        return ExitCode.OK
    run = runner(name)
    with _Progress() as progress:
        result = run(config, progress)
    leave()
    if not is_main():
        return ExitCode.OK
    failed = result.pop("failed", {})
    show(result)
    for path, reason in failed.items():
        print(f"tocsr: {path}: {reason}", file=sys.stderr)
    return ExitCode.SOME_FAILED if failed else ExitCode.OK


def _end(code: ExitCode, why: str) -> int:
    """Says why the program ends, where no other of its processes has said so; the exit code."""
    first = first_to_fail(code)
    if first is None:
        print(f"tocsr: {why}", file=sys.stderr)
    return code if first is None else first


def main(argv: list[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return ExitCode.OK if argv else ExitCode.USAGE
    if argv[0] == "--version":
        print(f"tocsr {__version__}")
        return ExitCode.OK
    try:
        if argv[0] not in VERBS:
            raise TocsrError(f"no verb '{argv[0]}'", did_you_mean(argv[0], VERBS))
        return run_verb(argv[0], argv[1:])
    except TocsrError as error:
        return _end(error.code, str(error))
    except KeyboardInterrupt:
        return _end(ExitCode.INTERRUPTED, "interrupted; the same command goes on from here")
    except Exception as error:
        if is_out_of_memory(error):
            return _end(ExitCode.RESOURCES, "memory ran out; use a smaller batch, crop or tile")
        if is_out_of_space(error):
            return _end(ExitCode.RESOURCES, f"the disk is full or its quota used up: {error}")
        if code := first_to_fail(1):  # this process failed because another did
            return code
        raise
