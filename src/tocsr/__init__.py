"""TOC-SR (arXiv 2605.02767): compact latent diffusion that upscales a photo in one step.

>>> from tocsr import Upscaler
>>> upscaler = Upscaler.from_pretrained()
>>> large = upscaler(Image.open("photo.jpg"))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tocsr.deploy.upscaler import Upscaler

__all__ = ["Upscaler", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name != "Upscaler":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tocsr.deploy.upscaler import Upscaler  # noqa: PLC0415  the command line starts without it

    return Upscaler
