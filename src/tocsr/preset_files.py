"""How a preset and a file become the options of a phase."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import yaml

from tocsr.config import require
from tocsr.errors import TocsrError, did_you_mean

if TYPE_CHECKING:
    from tocsr.config import PhaseConfig

SHIPPED_MODEL = Path(__file__).parent / "assets" / "model"
PRESETS = Path(__file__).parent / "presets"


def preset_folder(preset: str) -> Path:
    """The folder of a preset given by name or path.

    Raises:
        TocsrError: Neither a shipped preset nor a folder.
    """
    for folder in (PRESETS / preset, Path(preset)):
        if preset and folder.is_dir():
            return folder
    names = [folder.name for folder in PRESETS.iterdir() if folder.is_dir()]
    raise TocsrError(f"no preset and no folder is called '{preset}'", did_you_mean(preset, names))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        TocsrError: No such file, or not a mapping.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TocsrError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise TocsrError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    require(isinstance(value or {}, dict), f"{path} must hold a mapping of options")
    return value or {}


def _nested_config(hint: Any) -> type | None:
    """The dataclass in a field's type: the type itself, or the element of a list."""
    if get_origin(hint) is list:
        hint = get_args(hint)[0]
    return hint if is_dataclass(hint) and isinstance(hint, type) else None


def check_keys(config: type, values: Any, where: str, prefix: str = "") -> None:
    """Raises a usage error for the first key without a field in `config`, nearest name offered."""
    if isinstance(values, list):
        for value in values:
            check_keys(config, value, where, prefix)
    if not isinstance(values, dict):
        return
    hints = get_type_hints(config)
    known = [field.name for field in fields(config)]
    for key, value in values.items():
        require(
            key in known,
            f"{where}: unknown option '{prefix}{key}'",
            did_you_mean(str(key), known),
        )
        if nested := _nested_config(hints[key]):
            check_keys(nested, value, where, f"{prefix}{key}.")


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above` laid over it, mapping by mapping."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def preset_values(preset: str, config: type[PhaseConfig]) -> dict[str, Any]:
    """What a preset says to one phase: `common.yaml`, for the fields it has, then its own file."""
    folder = preset_folder(preset)
    common_path, own_path = folder / "common.yaml", folder / f"{config.verb}.yaml"
    hints = get_type_hints(config)
    known = {field.name for field in fields(config)}
    common = read_yaml(common_path) if common_path.exists() else {}
    common = {key: value for key, value in common.items() if key in known}
    own = read_yaml(own_path) if own_path.exists() else {}
    check_keys(config, common, str(common_path))
    check_keys(config, own, str(own_path))
    # a TaskConfig has taken its row's values; as defaults they would outlive another row's name
    below = {}
    if "task" in known:
        below["task"] = {field.name: field.default for field in fields(hints["task"])}
    return merged(merged(merged(below, common), own), {"preset": preset})
