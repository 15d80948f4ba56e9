"""Killed in a folder of photos and started again: every result whole, none made twice."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tocsr.deploy.configs import UpscaleConfig
from tocsr.deploy.image_files import Picture, read_image, write_image
from tocsr.deploy.upscale import run
from tocsr.deploy.upscaler import Upscaler

NUM_PHOTOS = 50


def finished(folder: Path) -> dict[str, int]:
    """The results there and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


def photos(folder: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    made = {}
    for number in range(NUM_PHOTOS):
        made[f"{number:02}.png"] = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        write_image(folder / f"{number:02}.png", Picture(made[f"{number:02}.png"]), "png")
    return made


def start_and_kill(folder: Path, out: Path, model: Path, after: int) -> None:
    command = [sys.executable, "-m", "tocsr", "upscale", str(folder), "-o", str(out)]
    process = subprocess.Popen(
        [*command, "-m", str(model)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(finished(out)) < after and process.poll() is None:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL  # it had not come to its end


def test_after_two_kills_every_result_is_whole_and_none_made_twice(tmp_path, toy_model):
    folder, out = tmp_path / "in", tmp_path / "out"
    images = photos(folder)
    seen: dict[str, int] = {}
    for after in (7, 23):
        start_and_kill(folder, out, toy_model, after)
        now = finished(out)
        assert after <= len(now) < NUM_PHOTOS
        assert now.items() >= seen.items()  # none of the earlier ones was written again
        seen = now
    result = run(UpscaleConfig(inputs=[folder], output=out, model=toy_model))
    assert sorted(Path(path).name for path in result["skipped"]) == sorted(seen)
    assert len(result["done"]) == NUM_PHOTOS - len(seen)
    assert finished(out).items() >= seen.items()
    upscaler = Upscaler.from_pretrained(toy_model)
    for name, image in images.items():
        assert np.array_equal(read_image(out / name).rgb, upscaler(image))
