"""Peak memory and time of one upscale by tile size, each in a process of its own.

python benchmarks/upscale_memory.py [PHOTO]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tocsr.deploy.upscaler import Upscaler

PHOTO = Path(__file__).parents[1] / "examples" / "colosseum.webp"


def main() -> None:
    if len(sys.argv) == 3:  # a child: PHOTO TILE
        photo, tile = np.asarray(Image.open(sys.argv[1]).convert("RGB")), int(sys.argv[2])
        upscaler = Upscaler.from_pretrained()
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        result = upscaler(photo, tile=tile)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {tile} | {peak:.0f} | {base:.0f} | {result.nbytes / 2**20:.0f} | {seconds:.1f} |")
        return
    photo = sys.argv[1] if len(sys.argv) > 1 else str(PHOTO)
    print("| tile | peak MiB | of it before the first tile | of it the result | seconds |")
    print("|---|---|---|---|---|")
    for tile in (64, 128, 256, 512):
        subprocess.run([sys.executable, __file__, photo, str(tile)], check=True)


if __name__ == "__main__":
    main()
