"""Networks from folders, single files and the Hugging Face hub; base networks of a preset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file

from tocsr.errors import ExitCode, TocsrError, one_line
from tocsr.files import read_json
from tocsr.models.compact import CompactUNet, from_base_unet
from tocsr.models.local_autoencoder import LocalAutoencoder
from tocsr.models.surrogates import SurrogateStage
from tocsr.models.taesd import TinyAutoencoder
from tocsr.models.vae import Autoencoder, LatentMap
from tocsr.models.variants import find_variant
from tocsr.preset_files import preset_folder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from diffusers import ModelMixin

WEIGHTS = "diffusion_pytorch_model.safetensors"
_FP16 = "diffusion_pytorch_model.fp16.safetensors"
_SHARDS = f"{WEIGHTS}.index.json"
_SINGLE_FILE = ".safetensors"
_AUTOENCODERS: dict[str, type[ModelMixin]] = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
    "LocalAutoencoder": LocalAutoencoder,
    "TinyAutoencoder": TinyAutoencoder,
}

# Where the paper's base networks are published: name in a preset -> repository, the subfolder in
# diffusers layout, and the single file in the authors' own.
_SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_FLUX = "black-forest-labs/FLUX.1-schnell"
_SOURCES = {
    "unet": (_SD, "unet", "v1-5-pruned-emaonly.safetensors"),
    "vae": (_SD, "vae", "v1-5-pruned-emaonly.safetensors"),
    "vae_teacher": (_FLUX, "vae", "ae.safetensors"),
}
_GATED = {
    _FLUX: "accept the licence on the page of this gated repository, run hf auth login, then "
}
_HUB = re.compile(r"^hf:/{1,2}(?P<repo>[^/]+/[^/]+)/?(?P<subfolder>.*)$")


def _fetch_hint(where: Path, preset: str, name: str) -> str:
    """The command that fetches a base network to where it was looked for."""
    if _is_on_hub(where):
        return "look on the repository's page for the subfolder that holds them"
    if not preset:
        return "name another folder, or make this one again"
    repo, subfolder, single_file = _SOURCES[name]
    single = where.suffix == _SINGLE_FILE
    files = single_file if single else f"{subfolder}/config.json {subfolder}/{WEIGHTS}"
    target = where.parent if single or where.name == subfolder else where
    return f"{_GATED.get(repo, '')}run: hf download {repo} {files} --local-dir {target}"


def _is_on_hub(where: Path) -> bool:
    return where.parts[:1] == ("hf:",)  # Path makes hf:/ of hf://


def _from_hub(where: Path, part: str) -> Path:
    """The local copy of `hf://OWNER/NAME` or `hf://OWNER/NAME/SUBFOLDER`, fetched if it must be.

    Without a subfolder both the repository's root and `part` in it are looked at.
    """
    match = _HUB.match(where.as_posix())
    if not match:
        raise TocsrError(f"a network on the hub is hf://OWNER/NAME/SUBFOLDER, got {where}")
    repo, subfolder = match["repo"], match["subfolder"]
    roots = [f"{subfolder}/"] if subfolder else ["", f"{part}/"]
    wanted = ("config.json", WEIGHTS, _SHARDS, "diffusion_pytorch_model-*.safetensors")
    try:
        copy = snapshot_download(repo, allow_patterns=[r + file for r in roots for file in wanted])
    except (OSError, ValueError) as error:  # what the hub's own exceptions derive from
        files = " ".join(f"{roots[-1]}{file}" for file in wanted[:2])
        reason = one_line(error)[:200]
        raise TocsrError(
            f"cannot fetch {repo} and no copy is in the hub's cache: {reason}",
            f"on a machine with network run: hf download {repo} {files}",
            ExitCode.MODEL,
        ) from error
    return Path(copy) / subfolder


def _local(where: Path | str, part: str) -> Path:
    """The file or folder that `where` names: a pipeline's root stands for its `part`."""
    path = Path(where)
    if _is_on_hub(path):
        path = _from_hub(path, part)
    inner = path / part
    is_root = (inner / "config.json").is_file() and not (path / "config.json").is_file()
    return inner if is_root else path


def _load(kind: type[ModelMixin], folder: Path, hint: str) -> Any:
    """A network from a folder in diffusers layout, in float32 and evaluation mode."""
    if missing := _missing_file(folder):
        others = sorted(path.name for path in folder.glob("*.bin"))
        instead = (
            f" (it holds {', '.join(others)}, and only safetensors are read)" if others else ""
        )
        raise TocsrError(
            f"a {kind.__name__} folder holds config.json and {WEIGHTS}; "
            f"{folder} has no {missing}{instead}",
            hint,
            ExitCode.MODEL,
        )
    whole = any((folder / name).is_file() for name in (WEIGHTS, _SHARDS))
    variant = None if whole else "fp16"
    try:
        network = kind.from_pretrained(folder, use_safetensors=True, variant=variant)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise _broken(kind, folder, error) from error
    return network.float().eval()


def _missing_file(folder: Path) -> str:
    """The first file that a network's folder lacks, shards counted; empty when it is whole."""
    if not (folder / "config.json").is_file():
        return "config.json"
    if (folder / _SHARDS).is_file():
        shards = set(read_json(folder / _SHARDS)["weight_map"].values())
        return next((name for name in sorted(shards) if not (folder / name).is_file()), "")
    return "" if any((folder / name).is_file() for name in (WEIGHTS, _FP16)) else WEIGHTS


def _broken(kind: type[ModelMixin], where: Path, error: Exception) -> TocsrError:
    reason = one_line(error)[:200]
    return TocsrError(
        f"{where} does not hold a whole {kind.__name__}: {reason}", code=ExitCode.MODEL
    )


def _load_original(kind: type[ModelMixin], file: Path, config: dict[str, Any], hint: str) -> Any:
    """A network from a single file in the layout of its authors, in float32 and evaluation mode.

    Every weight must be there and fit: a strict load, unlike diffusers' `from_single_file`.
    """
    if not file.is_file():
        raise TocsrError(f"there is no file {file}", hint, ExitCode.MODEL)
    convert = convert_ldm_unet_checkpoint
    if kind is AutoencoderKL:
        convert = convert_ldm_vae_checkpoint
    with torch.device("meta"):
        network = kind.from_config(config)
    try:
        weights = convert(load_file(file), dict(network.config))
        owned = {name: w.to(torch.float32, copy=True) for name, w in weights.items()}
        network.load_state_dict(owned, assign=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise _broken(kind, file, error) from error
    return network.eval()


def _load_taesd(encoder: Path, decoder: Path) -> TinyAutoencoder:
    try:
        return TinyAutoencoder.from_files(encoder, decoder)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise _broken(TinyAutoencoder, encoder.parent, error) from error


def load_unet(where: Path | str, preset: str = "") -> CompactUNet:
    """The U-Net at a place, ours or a stock diffusers one, in float32 and evaluation mode.

    Args:
        where: A folder in diffusers layout, or a pipeline's with `unet/` in it; a `.safetensors`
            file in Stable Diffusion's original layout; or `hf://OWNER/NAME/SUBFOLDER`, from the
            hub's cache or the hub (not where HF_HUB_OFFLINE is set).
        preset: For a base network: whose `unet.json` says how a single file's network is built.

    Raises:
        TocsrError: A file is missing or broken; for a base network the hint says how to fetch it.
    """
    path, hint = _local(where, "unet"), _fetch_hint(Path(where), preset, "unet")
    if path.suffix == _SINGLE_FILE:
        settings = read_json(preset_folder(preset or "paper") / "unet.json")
        base = settings.pop("base")
        unet = _load_original(UNet2DConditionModel, path, base, hint)
        return from_base_unet(unet, **settings).eval()
    config = path / "config.json"
    if config.is_file() and read_json(config).get("_class_name") == "UNet2DConditionModel":
        return from_base_unet(_load(UNet2DConditionModel, path, hint)).eval()
    return _load(CompactUNet, path, hint)


def load_vae(where: Path | str, preset: str = "", name: str = "vae") -> Autoencoder:
    """The autoencoder at a place, of the class its configuration names, in evaluation mode.

    Args:
        where: As for `load_unet`, with `vae/` in a pipeline's folder; a single file may hold a
            whole Stable Diffusion or an autoencoder alone, such as FLUX's `ae.safetensors`. Also
            `FOLDER/taef2` for the TAESD family's `taef2_encoder` and `taef2_decoder.safetensors`.
        preset: For a base network: whose configuration says how a single file's network is built.
        name: Which of the preset's: `vae` or `vae_teacher`.

    Raises:
        TocsrError: A file is missing or broken; for a base network the hint says how to fetch it.
    """
    halves = [Path(f"{where}_{half}{_SINGLE_FILE}") for half in ("encoder", "decoder")]
    if any(file.is_file() for file in halves):
        return _load_taesd(*halves)
    path, hint = _local(where, "vae"), _fetch_hint(Path(where), preset, name)
    if path.suffix == _SINGLE_FILE:
        like = preset_folder(preset or "paper") / f"{name}.json"
        config = read_json(like)
        if _autoencoder_class(config, like) is not AutoencoderKL:
            raise TocsrError(
                f"{path} can only be an AutoencoderKL, and {like} is not one", "name another preset"
            )
        return _load_original(AutoencoderKL, path, config, hint)
    given = path / "config.json"
    kind = _autoencoder_class(read_json(given), path) if given.is_file() else AutoencoderKL
    return _load(kind, path, hint)


def _autoencoder_class(config: dict[str, Any], where: Path) -> type[ModelMixin]:
    name = config.get("_class_name", "")
    if name not in _AUTOENCODERS:
        raise TocsrError(
            f"{where}: _class_name must be one of {', '.join(_AUTOENCODERS)}, got '{name}'",
            code=ExitCode.MODEL,
        )
    return _AUTOENCODERS[name]


def load_latent_map(folder: Path) -> LatentMap | None:
    """The map to the latents of a teacher with other channels; None where none was made."""
    return _load(LatentMap, folder, "") if folder.is_dir() else None


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
