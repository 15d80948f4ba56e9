"""WebDataset shards, which are plain tar files, read by offset and not from front to back.

The list of a shard's members is made once, from the headers alone, and kept beside the shard as
`NAME.tar.tocsr-index.json`; where that folder cannot be written, in `~/.cache/tocsr/shards` (or
`$XDG_CACHE_HOME`). It states the shard's size and time of change, and is made anew when either
differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from uuid import uuid4

from tocsr.errors import TocsrError

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


@dataclass(frozen=True, slots=True)
class Member:
    """One file in a shard.

    Args:
        name: Its path in the archive.
        offset: Where its first byte lies in the shard.
        size: Its bytes.
    """

    name: str
    offset: int
    size: int


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern stands for, in order.

    `a-{08..11}.tar` is a range, whose zeros in front are kept, and `{train,val}.tar` a list; the
    first pair of braces changes slowest. Pairs inside pairs and steps are not taken.

    Raises:
        TocsrError: A pair of braces holds something else.
    """
    match = re.search(r"\{(.*?)\}", pattern)
    if match is None:
        return [pattern]
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        first, last = bounds.groups()
        padded = any(bound.startswith("0") and bound != "0" for bound in (first, last))
        width = max(len(first), len(last)) if padded else 0
        step = 1 if int(first) <= int(last) else -1
        middles = [f"{i:0{width}}" for i in range(int(first), int(last) + step, step)]
    elif "," in match[1] and "{" not in match[1]:
        middles = match[1].split(",")
    else:
        raise TocsrError(
            f"braces must hold a range such as 000000..000084 or a list such as train,val, got "
            f"{match[0]} in '{pattern}'"
        )
    ends = expand_braces(pattern[match.end() :])
    return [pattern[: match.start()] + middle + end for middle in middles for end in ends]


def shard_members(shard: Path) -> list[Member]:
    """The files in a shard, in the order of the archive; headers are read at most once.

    Raises:
        TocsrError: It is missing, cut short or not a plain tar file.
    """
    try:
        stat = shard.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        indices = _index_files(shard)
        for index in indices:
            if (members := _kept_members(index, stamp)) is not None:
                return members
        members = _read_headers(shard)
    except (OSError, tarfile.TarError) as error:
        raise TocsrError(
            f"{shard} is not a readable plain tar file: {error}", "fetch or write the shard again"
        ) from error
    text = json.dumps({"shard": stamp, "members": [astuple(member) for member in members]})
    # without a place to keep it, the next start reads the headers again, and nothing else changes
    any(_wrote(index, text) for index in indices)
    return members


def read_member(shard: Path, offset: int, size: int) -> bytes:
    """Bytes of a shard.

    The file is opened for each read: a handle that outlives a fork would be one position shared by
    all workers, and opening costs microseconds where decoding a photo costs milliseconds.
    """
    with shard.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _index_files(shard: Path) -> tuple[Path, Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(str(shard.resolve()).encode()).hexdigest()[:16]
    return (
        shard.with_name(f"{shard.name}.tocsr-index.json"),
        cache / "tocsr" / "shards" / f"{digest}.json",
    )


def _kept_members(index: Path, stamp: list[int]) -> list[Member] | None:
    try:
        kept = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not made yet, not ours to read, or cut short by a kill
        return None
    if kept["shard"] != stamp:
        return None
    return [Member(*member) for member in kept["members"]]


def _wrote(index: Path, text: str) -> bool:
    # processes of one training may make the same index at once, so each writes a file of its own
    part = index.with_name(f".{uuid4().hex}.part")
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(index)
    except OSError:
        with suppress(OSError):
            part.unlink()
        return False
    return True


def _read_headers(shard: Path) -> list[Member]:
    with tarfile.open(shard, "r:") as archive:
        members = [Member(m.name, m.offset_data, m.size) for m in archive if m.isreg()]
        end = archive.offset
    # tarfile takes a broken header for the end of the archive, which is a block of zeros
    if read_member(shard, end, tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"broken header at byte {end}")
    return members
