"""FID: how far two sets of images lie apart in the features of Inception-v3.

Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium",
NeurIPS 2017. Not a figure of an image but of a set, and one that falls with the size of the set: on
few images most of it is noise, whatever the system (Chong and Forsyth, CVPR 2020).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from tocsr.data.images import to_tensor
from tocsr.deploy.metrics.inception import SIDE, load_inception
from tocsr.models.frechet import Moments, frechet_distance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from tocsr.deploy.metrics.subject import Subject

MIN_IMAGES = 500  # fewer, and the figure is marked as noise
_REFERENCES = ""  # no system is called so


def load_fid(paths: Sequence[Path]) -> Callable[[Subject], Tensor]:
    """Features (2048,) as pytorch-fid computes them: bilinear to 299 x 299, not antialiased.

    Args:
        paths: The one file of weights.

    Raises:
        TocsrError: The file does not hold the weights (MODEL).
    """

    def prepared(image: Subject) -> Tensor:
        pixels = to_tensor(image.rgb)[None]
        return F.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear")

    return _features_of(paths[0], prepared)


def load_clean_fid(paths: Sequence[Path]) -> Callable[[Subject], Tensor]:
    """Features (2048,) as clean-fid and pyiqa compute them: Pillow's bicubic, channel by channel.

    Parmar, Zhang, Zhu, "On aliased resizing and surprising subtleties in GAN evaluation", CVPR
    2022.

    Args:
        paths: The one file of weights.

    Raises:
        TocsrError: The file does not hold the weights (MODEL).
    """

    def prepared(image: Subject) -> Tensor:
        pixels = torch.from_numpy(clean_resized(image.rgb)).permute(2, 0, 1)[None]
        return (pixels - 128) / 128

    return _features_of(paths[0], prepared)


def clean_resized(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """An image (H, W, 3) at 299 x 299, in [0, 255], not rounded to levels."""
    channels = [
        Image.fromarray(image[:, :, channel].astype(np.float32)).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        for channel in range(3)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=2).clip(0, 255)


def _features_of(
    weights: Path, prepared: Callable[[Subject], Tensor]
) -> Callable[[Subject], Tensor]:
    """The network's features (2048,) of an image that is `prepared` (1, 3, 299, 299) for it."""
    network = load_inception(weights)

    @torch.inference_mode()
    def features(image: Subject) -> Tensor:
        # channels innermost, in which the convolutions take a quarter less time
        pixels = prepared(image).contiguous(memory_format=torch.channels_last)
        found: Tensor = network(pixels)
        return found[0]

    return features


class SetFigures:
    """Metrics of sets, by moments of features that are taken in image by image.

    Of 2048 features a set takes 34 MB, whatever the number of its images.

    Args:
        features: What makes the features of an image, by name of the metric.
    """

    def __init__(self, features: Mapping[str, Callable[[Subject], Tensor]]) -> None:
        self.features = features
        self._moments: dict[tuple[str, str], Moments] = {}

    def take_reference_(self, image: Subject) -> None:
        """Takes in a reference."""
        self.take_(_REFERENCES, image)

    def take_(self, system: str, image: Subject) -> None:
        """Takes in a result of a system."""
        for name, make in self.features.items():
            found = make(image)[None]
            moments = self._moments.setdefault((system, name), Moments(found.shape[1]))
            moments.add_(found)

    def of(self, system: str) -> dict[str, dict[str, Any]]:
        """Of each metric its `value`, `num_images`, and whether at so few it `is_noise`."""
        found = {}
        for name in self.features:
            moments = self._moments[system, name]
            found[name] = {
                "value": frechet_distance(self._moments[_REFERENCES, name], moments),
                "num_images": moments.count,
                "is_noise": moments.count < MIN_IMAGES,
            }
        return found
