"""An exported folder as a pipeline of diffusers.

diffusers runs no code of a folder unless it is told to, and loads components of other packages only
from modules that are imported already and know its `ModelMixin`. So the folder's `pipeline.py` does
nothing but import this module, which names what a folder may hold:

    DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
"""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL.Image import Image
from torch import Tensor, nn

from tocsr.config import require
from tocsr.deploy.model_facts import ModelFacts
from tocsr.deploy.torch_session import TorchGraph
from tocsr.deploy.upscaler import Upscaler
from tocsr.files import write_json, write_text
from tocsr.models.compact import CompactUNet
from tocsr.models.local_autoencoder import LocalAutoencoder
from tocsr.models.sr import GeneratorFacts, OneStepGenerator
from tocsr.models.taesd import TinyAutoencoder

__all__ = ["CompactUNet", "LocalAutoencoder", "ModelMixin", "TinyAutoencoder", "UpscalePipeline"]

_FILE = f'''"""Lets diffusers load this folder; needs tocsr[torch]."""

from {__name__} import UpscalePipeline

__all__ = ["UpscalePipeline"]
'''


class UpscalePipeline(DiffusionPipeline):
    """The one-step super-resolver, tile by tile, as `Upscaler` computes it in PyTorch.

    Args:
        vae: E and D, an `Autoencoder`.
        unet: The student.
        facts: `GeneratorFacts` as a mapping.

    Example:
        >>> DiffusionPipeline.from_pretrained(
        ...     "exported", trust_remote_code=True
        ... )(photo).images  # doctest: +SKIP
    """

    # no string annotations here: diffusers reads the types, and what has a default is no component
    def __init__(self, vae: nn.Module, unet: CompactUNet, facts: dict[str, Any] = {}) -> None:  # noqa: B006
        super().__init__()
        self.register_modules(vae=vae, unet=unet)
        self.register_to_config(facts=facts)

    def __call__(
        self,
        image: Image | Tensor | Sequence[Image],
        seed: int = 0,
        fidelity: float = 0.0,
        tile: int = 0,
    ) -> ImagePipelineOutput:
        """Upscales images.

        Args:
            image: A Pillow image or several; or a torch tensor as `Upscaler` takes it.
            seed: Of the noise that each starts from.
            fidelity: As `Upscaler` says.
            tile: Likewise.

        Returns:
            `images`: a list of Pillow images, or the tensor.

        Raises:
            TocsrError: The weights are not float32, or the image is none that `Upscaler` takes.
        """
        require(
            self.dtype == torch.float32,
            f"the pipeline computes in float32, its weights are {self.dtype}",
            "load it without dtype; on a device that has bfloat16 it computes in that by itself",
        )
        generator = OneStepGenerator(self.vae, self.unet, GeneratorFacts(**self.config.facts))
        known = {field.name for field in fields(ModelFacts)}
        facts = ModelFacts(**{k: v for k, v in self.config.facts.items() if k in known})
        upscaler = Upscaler(facts, TorchGraph(generator, str(self.device)))

        def upscaled(one: Any) -> Any:
            return upscaler(one, seed=seed, fidelity=fidelity, tile=tile)

        if isinstance(image, torch.Tensor):
            return ImagePipelineOutput(images=upscaled(image))
        several = image if isinstance(image, list | tuple) else [image]
        return ImagePipelineOutput(images=[upscaled(one) for one in several])


def write_pipeline(generator: OneStepGenerator, folder: Path) -> None:
    """Writes what makes a model folder a pipeline: `pipeline.py` and `model_index.json`."""
    pipeline = UpscalePipeline(generator.vae, generator.unet, asdict(generator.facts))
    write_text(folder / "pipeline.py", _FILE)
    index = {**pipeline.config, "_class_name": ["pipeline", UpscalePipeline.__name__]}
    for part in ("vae", "unet"):
        library, name = index[part]
        index[part] = [library if library == "diffusers" else __name__, name]
    write_json(folder / UpscalePipeline.config_name, index)
