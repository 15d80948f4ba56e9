"""How unlike two images look: shift-tolerant LPIPS, and a distance that needs no such weights.

Not in the paper, which measures LPIPS. Ghildyal and Liu, "Shift-tolerant Perceptual Similarity
Metric", ECCV 2022 (arXiv 2207.13686): LPIPS whose trunk is trained with blurred pooling, so that a
shift by a pixel or two, which nobody sees, counts for little. Its figures are not those of LPIPS.

Written from the article and held against the authors' package stlpips-pytorch, whose weights are
under the BSD 2-Clause licence, (c) 2022 Abhijay Ghildyal, Feng Liu.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.errors import ExitCode, TocsrError, one_line
from tocsr.models.vae import encode

if TYPE_CHECKING:
    from pathlib import Path

    from tocsr.models.vae import Autoencoder

Trunk = Literal["alex", "vgg"]

MIN_SIDE = 32  # pixels; below 21 the last reflected border of the AlexNet trunk has no room
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS: ImageNet's, in [-1, 1]
_EPS = 1e-10
_WIDTHS: dict[Trunk, tuple[int, ...]] = {  # channels after each slice
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
}


class _BlurPool(nn.Module):
    """Every second pixel after a [1 2 1] blur; borders reflected by two pixels (Zhang, ICML 2019).

    Shape:
        (B, C, h, w) -> (B, C, (h + 1) // 2 + 1, (w + 1) // 2 + 1).
    """

    filt: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
        return F.conv2d(padded, self.filt.expand(channels, 1, 3, 3), stride=2, groups=channels)


def _alexnet() -> list[list[nn.Module]]:
    return [
        [nn.Conv2d(3, 64, 11, padding=2), _BlurPool(), nn.ReLU()],
        [nn.MaxPool2d(3, 1), _BlurPool(), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()],
        [nn.MaxPool2d(3, 1), _BlurPool(), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()],
        [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()],
    ]


def _vgg16() -> list[list[nn.Module]]:
    widths = [(3, 64, 64), (64, 128, 128), (128, *[256] * 3), (256, *[512] * 3), (512, *[512] * 3)]
    slices: list[list[nn.Module]] = []
    for chain in widths:
        layers: list[nn.Module] = [nn.MaxPool2d(2, 1), _BlurPool()] if slices else []
        for a, b in pairwise(chain):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU()]
        slices.append(layers)
    return slices


def _numbered(slices: list[list[nn.Module]]) -> nn.ModuleDict:
    """`slice1` and on, their layers numbered through, as the weights' names have it."""
    net, number = nn.ModuleDict(), 0
    for index, layers in enumerate(slices, start=1):
        part = nn.Sequential()
        for layer in layers:
            part.add_module(str(number), layer)
            number += 1
        net[f"slice{index}"] = part
    return net


def _normalised(h: Tensor) -> Tensor:
    """Features divided by their norm over channels."""
    # vector_norm, whose gradient where all features are zero is zero and not nan
    return h / (torch.linalg.vector_norm(h, dim=1, keepdim=True) + _EPS)


class ShiftTolerantLPIPS(nn.Module):
    """ST-LPIPS(x, y): 0 for equal images, about 0.5 for a photo and its bicubic x4.

    d = sum_l mean_hw( w_l . (f_l(x) / |f_l(x)| - f_l(y) / |f_l(y)|)^2 ), f_l the trunk's features
    after its l-th slice, |.| over channels, w_l not negative. Differentiable in both images; its
    own weights are frozen. Constructed, its weights are random: `from_file` loads trained ones.

    Args:
        trunk: `alex`, which the authors recommend as a metric, or `vgg`.

    Shape:
        x and y (B, 3, H, W) RGB in [-1, 1], H and W at least `MIN_SIDE` -> (B,), at least 0.

    Example:
        >>> metric = ShiftTolerantLPIPS("alex")
        >>> image = torch.zeros(2, 3, 32, 32)
        >>> metric(image, image).tolist()
        [0.0, 0.0]
    """

    _supports_gradient_checkpointing = False  # asked of every network of a training
    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.net = _numbered(_alexnet() if trunk == "alex" else _vgg16())
        self.heads = nn.ParameterList([torch.rand(1, width, 1, 1) for width in _WIDTHS[trunk]])
        for name, values in (("shift", _SHIFT), ("scale", _SCALE)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The metric with the authors' weights, of the trunk that the file holds.

        Args:
            path: Safetensors of the package's state: `net.slice*` and `lin*.model.1.weight`. What
                is fixed by definition, `scaling_layer.*` and `*.filt`, is not read.

        Raises:
            TocsrError: No such file, or not the weights of one of the trunks.
        """
        hint = "name stlpips_alex.safetensors or stlpips_vgg.safetensors"
        if not path.is_file():
            raise TocsrError(f"no weights of the metric at {path}", hint, ExitCode.MODEL)
        try:
            tensors = load_file(path)
            metric = cls("vgg" if "net.slice5.32.weight" in tensors else "alex")
            metric.load_state_dict(
                {
                    name.replace("lin", "heads.").removesuffix(".model.1.weight"): tensor
                    for name, tensor in tensors.items()
                    if name.startswith(("net.", "lin")) and not name.endswith(".filt")
                }
            )
        except (RuntimeError, SafetensorError) as error:
            reason = one_line(error)[:200]
            message = f"{path} does not hold whole weights of shift-tolerant LPIPS: {reason}"
            raise TocsrError(message, hint, ExitCode.MODEL) from error
        return metric

    def features(self, x: Tensor) -> list[Tensor]:
        """f_l(x) / |f_l(x)| of each slice, (B, C_l, h_l, w_l)."""
        h = (x - self.shift) / self.scale
        found = []
        for part in self.net.values():
            h = part(h)
            found.append(_normalised(h))
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape != y.shape or x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < MIN_SIDE:
            raise TocsrError(
                f"the metric takes two batches (B, 3, H, W) of one shape, H and W at least "
                f"{MIN_SIDE}, got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        distance = x.new_zeros(len(x))
        for one, other, head in zip(self.features(x), self.features(y), self.heads, strict=True):
            distance = distance + ((one - other) ** 2 * head).sum(dim=1).mean(dim=(1, 2))
        return distance


class EncoderDistance:
    """How unlike two images are in the features of a frozen autoencoder's encoder.

    d = mean_l mean_hw |f_l(x) / |f_l(x)| - f_l(y) / |f_l(y)||^2, f_l the features after the l-th
    layer of the encoder, |.| over channels. Not in the paper: a perceptual loss after LPIPS that
    asks for no other network and costs what encoding costs. Differentiable in x.

    Args:
        vae: The autoencoder.

    Shape:
        x and y (B, 3, H, W) in [-1, 1], sides multiples of 8 -> (B,), in [0, 4].
    """

    def __init__(self, vae: Autoencoder) -> None:
        self.vae = vae

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._features(y)
        distances = [
            (one - other).square().sum(dim=1).mean(dim=(1, 2))
            for one, other in zip(self._features(x), wanted, strict=True)
        ]
        return torch.stack(distances).mean(dim=0)

    def _features(self, x: Tensor) -> list[Tensor]:
        """f_l(x) / |f_l(x)| of each layer, float32."""
        found: list[Tensor] = []

        def note(layer: nn.Module, args: Any, output: Tensor) -> None:
            found.append(_normalised(output.float()))

        handles = [layer.register_forward_hook(note) for layer in _encoder_layers(self.vae)]
        try:
            encode(self.vae, x)
        finally:
            for handle in handles:
                handle.remove()
        return found


def _encoder_layers(vae: Autoencoder) -> list[nn.Module]:
    """The layers of an encoder that compute features, in order."""
    if isinstance(vae, AutoencoderKL):
        return [*vae.encoder.down_blocks, vae.encoder.mid_block]
    layers: Any = vae.encoder.layers if isinstance(vae, AutoencoderTiny) else vae.encoder
    return [layer for layer in layers if any(True for _ in layer.parameters())]
