"""Memory and time of large photos through `tocsr upscale`, as a person starts it.

    python benchmarks/upscale_huge.py [--megapixels 6.25 100] [--model FOLDER] [--num_threads 2]

Each photo is the example photo repeated, mirrored at every border, as a PNG. In strips of a few
rows (`--strips`), as where the memory does not hold the result, or in memory. The peak of anonymous
memory is what the program itself takes; pages of files that the system may drop whenever it needs
room are no part of it. Needs /proc.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tocsr.deploy.huge import write_huge
from tocsr.deploy.image_files import Picture
from tocsr.preset_files import SHIPPED_MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence

PHOTO = Path(__file__).parents[1] / "examples" / "colosseum.webp"
# The command line of a machine whose memory holds no result
IN_STRIPS = """
import sys
from tocsr.cli import main
from tocsr.deploy import upscale_steps
upscale_steps.available_bytes = lambda: 0
sys.exit(main(sys.argv[1:]))
"""


def write_photo(path: Path, side: int) -> None:
    """A square photo of `side` pixels."""
    with Image.open(PHOTO) as image:
        once = np.asarray(image.convert("RGB"))
    rows, cols = (np.abs((np.arange(side) + n) % (2 * n) - n) % n for n in once.shape[:2])
    write_huge(path, Picture(np.ascontiguousarray(once[rows][:, cols])), "png")


def peak_mib(process: subprocess.Popen[bytes]) -> float:
    """The largest anonymous memory of a process until it ends, looked at ten times a second."""
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        for row in status.read_text().splitlines():
            if row.startswith("RssAnon:"):
                peak = max(peak, int(row.split()[1]))
        time.sleep(0.1)
    return peak / 1024


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megapixels", type=float, nargs="+", default=[6.25, 100.0])
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL)
    parser.add_argument("--num_threads", type=int, default=0)
    parser.add_argument("--tile", type=int, default=0)
    parser.add_argument("--memory", action="store_true", help="Through memory instead of strips.")
    parser.add_argument("--folder", type=Path, help="For the photos and results; by default /tmp.")
    options = parser.parse_args(argv)
    program = ["-m", "tocsr"] if options.memory else ["-c", IN_STRIPS]
    print("| photo | result | seconds | peak MiB | file MiB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for megapixels in options.megapixels:
            side = round((megapixels * 1e6) ** 0.5)
            photo, result = Path(folder) / "photo.png", Path(folder) / "large.png"
            write_photo(photo, side)
            command = [sys.executable, *program, "upscale", str(photo), "-o", str(result)]
            command += ["--model", str(options.model), "--tile", str(options.tile)]
            command += ["--num_threads", str(options.num_threads), "--overwrite", "true"]
            started = time.perf_counter()
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            peak = peak_mib(process)
            seconds = time.perf_counter() - started
            assert process.returncode == 0, f"exit code {process.returncode}"
            large = result.stat().st_size / 2**20
            print(
                f"| {side} x {side} | {4 * side} x {4 * side} | {seconds:.0f} | {peak:.0f} | "
                f"{large:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
