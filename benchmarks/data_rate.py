"""Crops per second from a folder and from shards of the same files, without and with workers.

    python benchmarks/data_rate.py [--photos FOLDER] [--copies 8] [--crop 512]

Every crop decodes its photo (no cache of pixels); the files are in the system's cache after a first
round that does not count. Rounds of the four settings alternate, and each takes its best. Ratios
hold within one run; rates of a busy machine do not carry over to another.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

from tocsr.config import DataConfig, Source
from tocsr.data.images import PhotoCrops, batches
from tocsr.data.sources import list_photos

BATCH = 8


def copies(photos: Path, num_copies: int, folder: Path) -> None:
    """The photos as a folder and as one shard per copy."""
    (folder / "files").mkdir()
    (folder / "shards").mkdir()
    files = [photo.path for photo in list_photos(Source(path=str(photos)))]
    for copy in range(num_copies):
        with tarfile.open(folder / "shards" / f"{copy:06}.tar", "w") as shard:
            for number, file in enumerate(files):
                name = f"{copy:04}{number:06}{file.suffix}"
                shutil.copy(file, folder / "files" / name)
                shard.add(file, name)


def crops_per_second(folder: Path, crop: int, num_workers: int, num_batches: int) -> float:
    config = DataConfig(sources=[Source(path=str(folder))], crop=crop, cache_mb=0)
    crops = PhotoCrops(config, 0, BATCH * (num_batches + 1))
    loader = batches(crops, BATCH, range(num_batches + 1), num_workers)
    next(loader)  # workers have begun
    started = time.perf_counter()
    total = sum(len(batch.indices) for batch in loader)
    return total / (time.perf_counter() - started)


def listing_ms(folder: Path) -> float:
    started = time.perf_counter()
    list_photos(Source(path=str(folder)))
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=Path("builtin"))
    parser.add_argument("--copies", type=int, default=8, help="Times each photo is written.")
    parser.add_argument("--crop", type=int, default=512)
    parser.add_argument("--num_batches", type=int, default=32, help="Batches of 8 in a round.")
    parser.add_argument("--rounds", type=int, default=4, help="The first does not count.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copies(args.photos, args.copies, folder)
        first, again = listing_ms(folder / "shards"), listing_ms(folder / "shards")
        settings = [(kind, workers) for workers in (0, 2) for kind in ("files", "shards")]
        rates = dict.fromkeys(settings, 0.0)
        for number in range(args.rounds):
            for kind, workers in settings:
                rate = crops_per_second(folder / kind, args.crop, workers, args.num_batches)
                rates[kind, workers] = max(rates[kind, workers], rate if number else 0.0)
        photos = list_photos(Source(path=str(folder / "files")))
        mean = sum(photo.path.stat().st_size for photo in photos) / len(photos)
        print(
            f"{len(photos)} files of {mean / 1024:.0f} KiB on average, {os.cpu_count()} cores; "
            f"listing: files {listing_ms(folder / 'files'):.1f} ms, shards {first:.1f} ms at first "
            f"and {again:.1f} ms with the index"
        )
    print("| source | workers | crops per second | relative |\n|---|---|---|---|")
    for (kind, workers), rate in rates.items():
        print(f"| {kind} | {workers} | {rate:.1f} | {rate / rates['files', 0]:.2f} |")


if __name__ == "__main__":
    main()
