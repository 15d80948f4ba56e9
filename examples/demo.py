"""A photo at a quarter of its size, upscaled by the model in the package, beside bicubic.

    python examples/demo.py [PHOTO]

The photo is reduced four times first, so that the result can be held against it. Writes
`demo/photo.png` (the small one), `demo/upscaled.png`, `demo/bicubic.png` and
`demo/before_after.png`: bicubic, ours and the original side by side, the middle enlarged below.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tocsr.deploy.upscaler import Upscaler

FOLDER = Path("demo")
PHOTO = Path(__file__).parent / "colosseum.webp"
DETAIL = 128  # side of the enlarged detail, in pixels of the result
LABEL = 24


def before_after(pictures: dict[str, Image.Image]) -> Image.Image:
    """Pictures of equal size side by side, and the same detail of each, enlarged, below."""
    width, height = next(iter(pictures.values())).size
    sheet = Image.new("RGB", (width * len(pictures), LABEL + height + width), "white")
    draw = ImageDraw.Draw(sheet)
    left, top = (width - DETAIL) // 2, (height - DETAIL) // 2
    for i, (name, picture) in enumerate(pictures.items()):
        detail = picture.crop((left, top, left + DETAIL, top + DETAIL))
        draw.text((i * width + 8, 5), name, fill="black", font_size=14)
        sheet.paste(picture, (i * width, LABEL))
        sheet.paste(
            detail.resize((width, width), Image.Resampling.NEAREST), (i * width, LABEL + height)
        )
    return sheet


def main() -> None:
    photo = Image.open(sys.argv[1] if len(sys.argv) > 1 else PHOTO).convert("RGB")
    upscaler = Upscaler.from_pretrained()
    factor = upscaler.upscale
    small_size = (photo.width // factor, photo.height // factor)
    size = (small_size[0] * factor, small_size[1] * factor)
    original = photo.crop((0, 0, *size))
    small = original.resize(small_size, Image.Resampling.BICUBIC)
    started = time.perf_counter()
    upscaled = Image.fromarray(upscaler(np.asarray(small)))
    seconds = time.perf_counter() - started
    bicubic = small.resize(size, Image.Resampling.BICUBIC)

    FOLDER.mkdir(exist_ok=True)
    sheet = before_after({"bicubic": bicubic, "tocsr": upscaled, "original": original})
    for name, picture in {
        "photo": small,
        "upscaled": upscaled,
        "bicubic": bicubic,
        "before_after": sheet,
    }.items():
        picture.save(FOLDER / f"{name}.png")
    print(f"{small.width} x {small.height} -> {size[0]} x {size[1]} pixels in {seconds:.2f} s")
    print(f"before and after: {FOLDER / 'before_after.png'}")
    print(f"the result alone: {FOLDER / 'upscaled.png'}")


if __name__ == "__main__":
    main()
