"""What our diffusers models add to `ModelMixin`."""

from __future__ import annotations

from typing import Any, Self

from diffusers import ModelMixin


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
