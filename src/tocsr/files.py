"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tocsr.errors import ExitCode, TocsrError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and renames it to `path` once the block succeeds.

    A failure or a kill leaves what stood at `path` before. A failure also removes the part; what a
    kill leaves of it is written over when the same file is written again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # the processes of one launch may make the same file at once: a cache's, whose text is the same
    part = path.with_name(f".{path.name}.{os.environ.get('RANK', '0')}.part")
    try:
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a whole UTF-8 file."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as an indented JSON file."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        TocsrError: It is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TocsrError(f"cannot read {path}: {error.strerror}", code=ExitCode.MODEL) from error
    except ValueError as error:
        raise TocsrError(f"{path} is not JSON: {error}", code=ExitCode.MODEL) from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON lines file; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append_json_line(path: Path, record: dict[str, Any]) -> None:
    """Appends one record that reaches the disk; first cuts off a line that a kill left short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
