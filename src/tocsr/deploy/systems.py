"""What is evaluated: from the name of an image and its low-resolution pixels to a result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from tocsr.config import require
from tocsr.deploy.image_files import read_image
from tocsr.deploy.model_facts import ModelFacts
from tocsr.deploy.resizing import resized
from tocsr.deploy.torch_session import TorchGraph
from tocsr.deploy.upscaler import Upscaler
from tocsr.errors import ExitCode, TocsrError
from tocsr.restoration import BICUBIC

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from tocsr.deploy.configs import EvaluateConfig

RESAMPLERS = {BICUBIC: Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


class System(Protocol):
    """One system: whatever makes a result of the size of the reference."""

    def __call__(self, name: str, lr: NDArray[np.uint8] | None, /) -> NDArray[np.uint8]:
        """The result for one image.

        Args:
            name: Of the image.
            lr: uint8 (h, w, 3), RGB; None where only results are evaluated.

        Returns:
            uint8 (H, W, 3), RGB, as a file would hold it.
        """


def files_system(files: Mapping[str, Path]) -> System:
    """Results that lie in files."""

    def system(name: str, lr: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        del lr
        return read_image(files[name]).rgb

    return system


def resampled_system(method: Image.Resampling, factor: int) -> System:
    """Interpolation by Pillow; bicubic (a = -0.5) is what every method is measured against."""

    def system(name: str, lr: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        del name
        assert lr is not None
        return resized(lr, (lr.shape[0] * factor, lr.shape[1] * factor), method)

    return system


def model_system(model: Path, config: EvaluateConfig) -> System:
    """A model folder, the one of `tocsr export` or the one that distill wrote.

    Raises:
        TocsrError: Not such a folder (MODEL), or of another factor.
    """
    if (model / "upscaler.onnx").is_file():
        upscaler = Upscaler.from_pretrained(model, config.num_threads)
    elif (model / "unet").is_dir():
        graph = TorchGraph(model, num_threads=config.num_threads, bfloat16=False)
        upscaler = Upscaler(ModelFacts.read(model / "upscaler.json"), graph)
    else:
        raise TocsrError(
            f"a model must be one of {', '.join(RESAMPLERS)}, or a folder of tocsr export or "
            f"distill, {model} is none",
            code=ExitCode.MODEL,
        )
    require(
        upscaler.upscale == config.factor,
        f"models are evaluated at factor {config.factor}, {model} has {upscaler.upscale}",
        "name its --factor",
    )

    def system(name: str, lr: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        del name
        assert lr is not None
        return upscaler(lr, config.seed)

    return system


def labels(paths: list[Path]) -> dict[str, Path]:
    """What systems are called: the last part of a path that tells it from the others."""
    for num_parts in range(1, 1 + max((len(path.parts) for path in paths), default=0)):
        called = {"/".join(path.parts[-num_parts:]): path for path in paths}
        if len(called) == len(paths):
            return called
    raise TocsrError(f"a system must be named once, got {', '.join(map(str, paths))}")


def make_system(path: Path, files: Mapping[str, Path] | None, config: EvaluateConfig) -> System:
    """The system of a path: its files where it is a folder of results, else what it computes.

    Args:
        path: A folder of results, a model folder, or the name of a resampler.
        files: The results by name of the image; None for a model.
        config: Factor, seed and threads of models.
    """
    if files is not None:
        return files_system(files)
    if method := RESAMPLERS.get(str(path)):
        return resampled_system(method, config.factor)
    return model_system(path, config)
