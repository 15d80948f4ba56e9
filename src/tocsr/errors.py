"""The one exception of the package and the exit codes it carries."""

from __future__ import annotations

import errno
from difflib import get_close_matches
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ExitCode(IntEnum):
    """What the process tells its caller."""

    OK = 0
    SOME_FAILED = 1  # some images failed, the others are done
    USAGE = 2  # the command line, the configuration or an input
    MODEL = 3  # a model is missing or broken
    RESOURCES = 4  # memory or disk ran out
    INTERRUPTED = 130


class TocsrError(Exception):
    """Something a user can put right.

    Args:
        message: What must hold and what came, in one line.
        hint: What to do about it, in one line.
        code: The exit code of the process.
    """

    def __init__(self, message: str, hint: str = "", code: ExitCode = ExitCode.USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_out_of_space(error: BaseException) -> bool:
    """Whether a write failed because the disk, the quota or the file size limit is reached.

    Libraries wrap the system's error in their own, so the causes and the text are searched too.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _NO_SPACE:
            return True
        if any(f"os error {code}" in str(seen).lower() for code in _NO_SPACE):  # safetensors (Rust)
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the CPU's memory ran out, or an accelerator's (PyTorch's own exceptions)."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "DefaultCPUAllocator: can't allocate memory" in str(error)


def one_line(error: Exception) -> str:
    """The text of an error without its line breaks."""
    return " ".join(str(error).split())


def why_unwritten(what: str, error: OSError, kept: str) -> str:
    """Why one of several results could not be written, where the others may go on.

    Args:
        what: The result, as the message calls it.
        error: What the system said.
        kept: What the run has finished so far.

    Raises:
        TocsrError: The disk is full, so that the others need not try (RESOURCES).
    """
    reason = f"cannot write {what}: {error.strerror or error}"
    if is_out_of_space(error):
        hint = f"make room; the finished {kept} stay"
        raise TocsrError(reason, hint, ExitCode.RESOURCES) from error
    return reason


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of `known`, or all of them when none is near."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(known)}"
