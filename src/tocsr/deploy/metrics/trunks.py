"""The trunks that perceptual metrics compare images by, with torchvision's weights for ImageNet.

Weights come as the authors publish them, PyTorch files, so that their checksums can be checked;
they are read as tensors alone.
"""

from __future__ import annotations

from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tocsr.errors import ExitCode, TocsrError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

ALEXNET_TAPS = (1, 4, 7, 9, 11)  # layers of `features` whose output is compared
VGG16_TAPS = (3, 8, 15, 22, 29)
_VGG16_WIDTHS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)


def alexnet() -> nn.Sequential:
    """`features` of torchvision's AlexNet up to its last ReLU."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def vgg16(pool: Callable[[], nn.Module]) -> nn.Sequential:
    """`features` of torchvision's VGG-16 up to its last ReLU.

    Args:
        pool: Makes what stands in place of each max pooling.
    """
    layers: list[nn.Module] = []
    before = 3
    for widths in _VGG16_WIDTHS:
        layers += [pool()] if layers else []
        for width in widths:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
    return nn.Sequential(*layers)


def load_trunk_(trunk: nn.Sequential, path: Path) -> nn.Sequential:
    """The trunk with the weights of torchvision's file; those of the classifier are left.

    Raises:
        TocsrError: The file does not hold the trunk's weights (MODEL).
    """
    prefix = "features."
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in read_tensors(path).items()
        if name.startswith(prefix)
    }
    load_state_(trunk, state, path)
    return trunk


def load_state_(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Gives a network the weights that a file holds, to be used and not trained.

    Raises:
        TocsrError: They are not its weights (MODEL).
    """
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise _broken(path, error) from error
    network.eval().requires_grad_(False)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What a PyTorch file of tensors holds, read without running what stands in it.

    Raises:
        TocsrError: It is no such file (MODEL).
    """
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, OSError, ValueError) as error:
        raise _broken(path, error) from error
    return dict(found)


def _broken(path: Path, error: Exception) -> TocsrError:
    reason = one_line(error)[:200]
    return TocsrError(f"{path} does not hold the weights: {reason}", code=ExitCode.MODEL)


def tapped(trunk: nn.Sequential, h: Tensor, taps: Sequence[int]) -> list[Tensor]:
    """What comes out of the tapped layers, (B, C_l, h_l, w_l) each."""
    found = []
    for number, layer in enumerate(trunk):
        h = layer(h)
        if number in taps:
            found.append(h)
    return found
