"""Networks from and to folders, and the configurations of a preset's base networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file

from tocsr.config import preset_folder
from tocsr.errors import ExitCode, TocsrError
from tocsr.files import read_json
from tocsr.models.compact import CompactUNet, from_base_unet
from tocsr.models.surrogates import SurrogateStage
from tocsr.models.vae import Autoencoder, LocalAutoencoder
from tocsr.models.variants import find_variant

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from diffusers import ModelMixin

WEIGHTS = "diffusion_pytorch_model.safetensors"
_AUTOENCODERS: dict[str, type[ModelMixin]] = {
    "AutoencoderKL": AutoencoderKL,
    "LocalAutoencoder": LocalAutoencoder,
}


def _load(kind: type[ModelMixin], folder: Path) -> Any:
    for name in ("config.json", WEIGHTS):
        if not (folder / name).is_file():
            raise TocsrError(
                f"a {kind.__name__} folder holds config.json and {WEIGHTS}; {folder} has no {name}",
                "name another folder, or make this one again",
                ExitCode.MODEL,
            )
    try:
        return kind.from_pretrained(folder, use_safetensors=True).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TocsrError(
            f"{folder} does not hold a whole {kind.__name__}: {reason}", code=ExitCode.MODEL
        ) from error


def load_unet(folder: Path) -> CompactUNet:
    """The U-Net in a folder, ours or a stock diffusers one, in evaluation mode.

    Raises:
        TocsrError: A file is missing or broken.
    """
    config = folder / "config.json"
    if config.is_file() and read_json(config).get("_class_name") == "UNet2DConditionModel":
        return from_base_unet(_load(UNet2DConditionModel, folder)).eval()
    return _load(CompactUNet, folder)


def load_vae(folder: Path) -> Autoencoder:
    """The autoencoder in a folder, of the class its configuration names, in evaluation mode.

    Raises:
        TocsrError: A file is missing or broken.
    """
    return _load(_autoencoder_class(read_json(folder / "config.json"), folder), folder)


def _autoencoder_class(config: dict[str, Any], where: Path) -> type[ModelMixin]:
    name = config.get("_class_name", "")
    if name not in _AUTOENCODERS:
        raise TocsrError(
            f"{where}: _class_name must be one of {', '.join(_AUTOENCODERS)}, got '{name}'",
            code=ExitCode.MODEL,
        )
    return _AUTOENCODERS[name]


def base_vae(preset: str, name: str) -> Autoencoder:
    """The preset's autoencoder `vae` or `vae_teacher`, with random weights."""
    path = preset_folder(preset) / f"{name}.json"
    config = read_json(path)
    return _autoencoder_class(config, path).from_config(config)


def base_unet(preset: str, **settings: Any) -> CompactUNet:
    """The preset's base U-Net with random weights, every stage the teacher's own.

    Args:
        preset: Its `unet.json` holds the arguments of a `CompactUNet`.
        settings: Arguments laid over them.
    """
    return CompactUNet(**{**read_json(preset_folder(preset) / "unet.json"), **settings})


def load_surrogates(teacher: CompactUNet, folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Calibrated blocks, `stage/variant` -> block in evaluation mode, on the teacher's device.

    Args:
        teacher: The U-Net they were calibrated on.
        folder: Holds `<stage>/<variant>.safetensors`.
        names: Which of them.

    Raises:
        TocsrError: A file is missing.
    """
    stages = {stage.name: stage for stage in teacher.stage_table}
    blocks = {}
    for name in names:
        stage, variant = name.split("/")
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            raise TocsrError(f"no surrogate at {path}", "run tocsr calibrate", ExitCode.MODEL)
        row = find_variant(stages[stage].kind, variant)
        block = SurrogateStage(stages[stage], row, teacher.facts)
        block.load_state_dict(load_file(path))
        blocks[name] = block.to(teacher.device).eval()
    return blocks
