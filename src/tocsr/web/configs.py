"""What serve is told; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tocsr.config import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serves a page for a browser, and an HTTP API, that upscale photos on this machine.

    Args:
        host: Address to listen on; the default takes requests of this machine alone. There is no
            login: whoever reaches the address can upscale.
        port: Port to listen on; 0 takes a free one.
        allowed_hosts: Names that requests may call this machine by, beside localhost and IP
            addresses; a reverse proxy's, for example.
        model: (-m) Model folder that tocsr export wrote; by default the model in the package.
        max_upload_mb: Largest file that is taken, in units of 10^6 bytes.
        max_pixels: Most pixels of a photo, read from its header before it is decoded.
        max_result_pixels: Most pixels of a result.
        max_seconds: Longest that an upload may take, and the work on a photo.
        max_queue: Photos that may wait beside those that are worked on; more are refused.
        num_workers: Photos that are worked on at once; each takes its own memory.
        keep_seconds: How long a result can be fetched, after which its files are removed.
        keep_mb: Results that are kept on the disk at once, in units of 10^6 bytes; beyond, the
            oldest go first, and the latest stays.
        num_threads: CPU threads that all photos share; 0 takes all cores.
    """

    verb: ClassVar[str] = "serve"

    host: str = "127.0.0.1"
    port: int = 8000
    allowed_hosts: tuple[str, ...] = ()
    model: Path | None = field(default=None, metadata={"short": "-m"})
    max_upload_mb: int = 50
    max_pixels: int = 16_000_000
    max_result_pixels: int = 256_000_000
    max_seconds: int = 900
    max_queue: int = 8
    num_workers: int = 1
    keep_seconds: int = 900
    keep_mb: int = 2000
    num_threads: int = 0

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, f"port must be in 0..65535, got {self.port}")
        require_at_least(0, self, "num_threads")
        limits = ("max_upload_mb", "max_pixels", "max_result_pixels", "max_seconds", "max_queue")
        require_at_least(1, self, *limits, "num_workers", "keep_seconds", "keep_mb")
