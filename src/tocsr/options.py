"""From the command line to a configuration: preset, file, options, each laid over the one before.

Options and help are made by jsonargparse from the verb's dataclass.
"""

from __future__ import annotations

import json
from dataclasses import fields
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from tocsr.config import PhaseConfig
from tocsr.errors import TocsrError
from tocsr.preset_files import check_keys, merged, preset_values, read_yaml
from tocsr.verbs import config_class


class _Parser(ArgumentParser):
    """Raises our error instead of leaving the process."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        raise TocsrError(_readable(message, self), f"see: {self.prog} --help")


def make_parser(name: str) -> ArgumentParser:
    """The parser of a verb; what the preset and the configuration file say are its defaults."""
    config = config_class(name)
    about = (config.__doc__ or "").split("\n")[0]
    parser = _Parser(prog=f"tocsr {name}", description=about, exit_on_error=False)
    positional = [f.name for f in fields(config) if f.metadata.get("positional")]
    for field_name in positional:
        parser.add_argument(field_name, nargs="+", help="Files or folders.")
    parser.add_class_arguments(config, skip=set(positional), help=about)
    if issubclass(config, PhaseConfig):
        parser.add_argument("--config", help="YAML file laid over the preset.")
        parser.add_argument(
            "--dry-run", action="store_true", help="Say what would be done, and do nothing."
        )
    return parser


def _readable(message: str, parser: ArgumentParser) -> str:
    """One line of jsonargparse's message, with the nearest option for one that it does not know."""
    line = " ".join(message.split())
    unknown = [word.split("=")[0] for word in line.split() if word.startswith("--")]
    if "nrecognized" in line and unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        near = get_close_matches(unknown[0], known, n=1)
        return f"unknown option '{unknown[0]}'" + (f", did you mean '{near[0]}'?" if near else "")
    return line


def _taken(argv: list[str], option: str) -> str | None:
    """The last value of `--option value` or `--option=value` in the arguments."""
    value = None
    for word, following in zip_longest(argv, argv[1:]):
        if word == option:
            value = following
        elif word.startswith(option + "="):
            value = word.split("=", 1)[1]
    return value


def _spelled_out(config: type, argv: list[str]) -> list[str]:
    """The arguments with short options made long, and `=true` after a switch without a value."""
    short = {f.metadata["short"]: f"--{f.name}" for f in fields(config) if "short" in f.metadata}
    switches = {f"--{f.name}" for f in fields(config) if f.type == "bool"}
    words = []
    for word, following in zip_longest(argv, argv[1:]):
        alone = word in switches and following not in ("true", "false")
        words.append(f"{word}=true" if alone else short.get(word, word))
    return _gathered(words, {f"--{f.name}" for f in fields(config) if str(f.type)[:6] == "tuple["})


def _gathered(words: list[str], several: set[str]) -> list[str]:
    """The words after an option that takes several as one list: `--sr a b` is `--sr=["a", "b"]`."""
    found, left = [], list(words)
    while left:
        word, values = left.pop(0), []
        if word in several and left and not left[0].startswith("["):
            while left and not left[0].startswith("-"):
                values.append(left.pop(0))
        found.append(f"{word}={json.dumps(values)}" if values else word)
    return found


def read_config(name: str, argv: list[str]) -> tuple[Any, bool]:
    """The configuration of a verb from preset, file and options, in rising order of precedence.

    Returns:
        The configuration, and whether only a dry run is asked for.

    Raises:
        TocsrError: An unknown option, or a value that does not fit.
    """
    config = config_class(name)
    defaults: dict[str, Any] = {}
    if issubclass(config, PhaseConfig):
        preset = _taken(argv, "--preset") or PhaseConfig.preset
        defaults = preset_values(preset, config)
        if file := _taken(argv, "--config"):
            values = read_yaml(Path(file))
            check_keys(config, values, file)
            defaults = merged(defaults, values)
    parser = make_parser(name)
    if defaults:
        parser.parse_object(defaults)  # for its checks: defaults are taken as given
        parser.set_defaults(defaults)
    parsed = parser.parse_args(_spelled_out(config, argv))
    dry_run = bool(parsed.pop("dry_run", False))
    parsed.pop("config", None)
    built = parser.instantiate(parsed)
    values = {field.name: built[field.name] for field in fields(config)}
    for field in fields(config):
        if field.metadata.get("positional"):
            values[field.name] = [Path(word) for word in values[field.name]]
    return config(**values), dry_run


def hand_on(config: PhaseConfig) -> list[str]:
    """The arguments that give another phase what one phase shares with it."""
    shared = [field.name for field in fields(PhaseConfig)]
    return [f"--{name}={getattr(config, name)}" for name in shared]
