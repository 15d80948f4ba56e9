"""What our models share: what they add to diffusers' `ModelMixin`, and kinds of parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from diffusers import ModelMixin

if TYPE_CHECKING:
    from torch import Tensor


class AlignedModel(ModelMixin):
    """A model that computes the same bits after loading as before saving.

    A loaded tensor lies where it lay in the safetensors file, which is seldom aligned to a cache
    line, and matrix products on unaligned memory take another path and round otherwise. So each
    weight is moved to memory of its own.
    """

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Self:
        """Loads a folder as `ModelMixin.from_pretrained` does."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return loaded


def mixes_channels(param: Tensor) -> bool:
    """Whether a parameter is a matrix over channels: a linear layer's, or a dense convolution's."""
    return param.ndim == 2 or (param.ndim == 4 and param.shape[1] > 1)
