"""What an upscale will need of the memory, and what there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tocsr.errors import ExitCode, TocsrError

if TYPE_CHECKING:
    from tocsr.deploy.resizing import Size

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
# Smaller ones take longer, for the halo around each; larger ones keep a person waiting for a sign
_TILES = (512, 256, 128, 64)
_TILE_BYTES = 640  # of memory for a pixel of a tile's result: docs/results/upscale.md
_ROW_BYTES = 12  # for a pixel of a row of tiles, in float32


def needed_bytes(target: Size, largest: Size, channel_bytes: int, num_channels: int) -> int:
    """What the images of one upscale take at once; the network's own memory comes on top.

    Args:
        target: (H, W) of the result.
        largest: (H, W) of the largest image that the network makes.
        channel_bytes: 1 or 2.
        num_channels: 4 with transparency, else 3.

    Returns:
        The result and the network's image, and Pillow's copy of 4 bytes a pixel while it encodes.
    """
    pixels = target[0] * target[1]
    made = largest[0] * largest[1]
    return channel_bytes * (num_channels * pixels + 3 * made) + 4 * pixels


def available_bytes() -> int | None:
    """Memory that this process may still take; None where the system does not say (not Linux)."""
    found = []
    if _MEMINFO.is_file():
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        found.append(max(0, int(limit.read_text()) - int(used.read_text())))
    return min(found, default=None)


def tile_sizes(width: int, halo: int, upscale: int) -> list[int]:
    """Sizes of a tile's core that half of the free memory holds, the largest first.

    The least is there in any case. What a pixel takes is known of the model in the package; another
    may run out of memory with the first of them, and go on to the next.

    Args:
        width: Of the photo, a row of whose tiles is held as well.
        halo: Pixels of the photo around a core.
        upscale: n.
    """
    there = available_bytes()
    sides = {size: size + 2 * halo for size in _TILES}
    needed = {
        size: upscale**2 * side * (_TILE_BYTES * side + _ROW_BYTES * width)
        for size, side in sides.items()
    }
    fitting = [size for size in _TILES if there is None or needed[size] <= there / 2]
    return fitting or [_TILES[-1]]


def check_memory(needed: int, target: Size) -> None:
    """Raises an error with code RESOURCES where the memory cannot hold a result; before the work.

    Args:
        needed: From `needed_bytes`.
        target: (H, W) of the result.
    """
    there = available_bytes()
    if there is not None and needed > there:
        raise TocsrError(
            f"a result of {target[1]} x {target[0]} pixels needs {needed / 2**30:.1f} GiB of "
            f"memory, {there / 2**30:.1f} GiB are free",
            "choose a smaller --upscale, or crop the photo",
            ExitCode.RESOURCES,
        )
