"""A finished model in PyTorch, the only engine that also computes on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tocsr.deploy.graphs import running
from tocsr.devices import pick_device
from tocsr.models.sr import OneStepGenerator

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # what x86 and Arm call the instructions


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 by itself: emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # 2.9 does not say
    return any(known.get(name) is True for name in _BFLOAT16)


class TorchGraph:
    """A `tocsr.deploy.graphs.Graph` in PyTorch, in bfloat16 where the device computes in it.

    Args:
        model: A model folder of export or of distill, or the model in one.
        device: `auto`, `cpu`, `cuda` or `mps`.
        num_threads: CPU threads; 0 takes all cores.
        bfloat16: None asks the device.

    Raises:
        TocsrError: A file is missing or broken (MODEL); there is no such device (USAGE).
    """

    def __init__(
        self,
        model: Path | OneStepGenerator,
        device: str = "cpu",
        num_threads: int = 0,
        bfloat16: bool | None = None,
    ) -> None:
        self._device = pick_device(device, num_threads)
        if not isinstance(model, OneStepGenerator):
            model = OneStepGenerator.from_pretrained(model)
        network: Any = model.eval()
        self._model = network.to(self._device, memory_format=torch.channels_last)
        self._bfloat16 = computes_in_bfloat16(self._device) if bfloat16 is None else bfloat16
        precision = "bfloat16" if self._bfloat16 else "float32"
        self.engine = f"torch {torch.__version__} {self._device.type} {precision}"

    def __call__(self, image: NDArray[Any], noise: NDArray[Any], /) -> NDArray[Any]:
        """As `Graph` says."""
        kind = self._device.type
        with (
            running((RuntimeError,)),
            torch.inference_mode(),
            torch.autocast(kind, torch.bfloat16, enabled=self._bfloat16),
        ):
            inputs = (torch.from_numpy(values).to(self._device) for values in (image, noise))
            result = self._model(*(x.to(memory_format=torch.channels_last) for x in inputs))
            return result.float().cpu().contiguous().numpy()


def open_graph(folder: Path, device: str, num_threads: int) -> TorchGraph:
    """The model of a folder."""
    return TorchGraph(folder, device, num_threads)
