"""The verbs: where each one's configuration and work live, imported only when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tocsr.errors import TocsrError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Verb:
    """One verb.

    Args:
        about: One line of help.
        room: The package its modules live in; `configs` holds its configuration.
        extra: What to install for it; empty for the core.
    """

    about: str
    room: str
    extra: str = ""


PHASES: dict[str, Verb] = {
    "pretrain": Verb("train base networks from scratch", "train", "train"),
    "expand-vae": Verb("distil a 16-channel autoencoder (Eqs. 2-4)", "train", "train"),
    "expand-unet": Verb("widen the U-Net to 16 channels, tune jointly (Eq. 5)", "train", "train"),
    "calibrate": Verb("train every surrogate block (Eqs. 6-8)", "train", "train"),
    "search": Verb("find the smallest faithful candidates (Eqs. 9-15)", "search", "search"),
    "select": Verb("assemble the winner nearest to the budget", "search", "search"),
    "finetune": Verb("fine-tune the compact U-Net (Eq. 16)", "train", "train"),
    "train-sr": Verb("train it to super-resolve in many steps (Eqs. 17-21)", "train", "train"),
    "distill": Verb("distil it into one step (Eqs. 22-23)", "train", "train"),
}
VERBS: dict[str, Verb] = {
    **PHASES,
    "recipe": Verb("run the phases of a preset in order", "recipe", "search"),
    "upscale": Verb("upscale photos", "deploy"),
    "serve": Verb("upscale photos in a browser, or through an HTTP API", "web", "web"),
    "degrade": Verb("make low-resolution images of photos", "deploy", "torch"),
    "evaluate": Verb("measure results against references", "deploy", "torch"),
    "profile": Verb("count parameters and GMACs, measure time and memory", "deploy", "torch"),
    "export": Verb("write a finished model's ONNX graph", "deploy", "export"),
}


def config_class(name: str) -> type:
    """The configuration of a verb."""
    verb = VERBS[name]
    module = "tocsr.recipe" if verb.room == "recipe" else f"tocsr.{verb.room}.configs"
    class_name = "".join(part.capitalize() for part in name.split("-")) + "Config"
    return getattr(import_module(module), class_name)


def runner(name: str) -> Callable[..., Any]:
    """What does the work of a verb, `run(config, report)`.

    Raises:
        TocsrError: A package that it needs is not installed.
    """
    verb = VERBS[name]
    module = name.replace("-", "_")
    path = "tocsr.recipe" if verb.room == "recipe" else f"tocsr.{verb.room}.{module}"
    try:
        return import_module(path).run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tocsr"):
            raise
        raise TocsrError(
            f"{name} needs the package {error.name}, which is not installed",
            f"run: pip install 'tocsr{f'[{verb.extra}]' if verb.extra else ''}'",
        ) from error
