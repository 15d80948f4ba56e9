"""What a training step needs of memory, counted without carrying it out.

The step runs on tensors without data, so SD 1.5 takes seconds and no memory. Every tensor counts
once, with its storage's bytes, from where it is made to where its last reference goes. Kernels and
autocast's choice of types are the CPU's. What cannot be counted: buffers inside kernels, what the
allocator rounds up and keeps, the program itself, the optimiser's temporaries, and what several
processes exchange.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

from tocsr.models.base import mixes_channels
from tocsr.models.compact import num_params

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tocsr.config import OptimConfig

# The networks by name and images (B, 3, H, W) -> the loss, a scalar
Loss = Callable[[Mapping[str, Any], Tensor], Tensor]


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations inside it made: how many live now, and lived at most."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen = WeakIdKeyDictionary(ref_type=weakref.ref)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for given in tree_iter((args, kwargs)):  # what was there before does not count
            if isinstance(given, Tensor):
                self._seen.setdefault(given.untyped_storage(), None)
        result = func(*args, **(kwargs or {}))
        for made in tree_iter(result):
            if isinstance(made, Tensor) and made.untyped_storage() not in self._seen:
                self._count(made.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        self._seen[storage] = None
        num_bytes = storage.nbytes()
        self.live += num_bytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, num_bytes)

    def _free(self, num_bytes: int) -> None:
        self.live -= num_bytes


@dataclass
class StepMemory:
    """Bytes of the tensors of one forward and backward pass.

    Args:
        kept: Part -> what its forward pass left for the backward pass, its result included.
        passing: Part -> the most that its forward pass without gradients took at once.
        peak: The most that lived at once, gradients included.
    """

    kept: dict[str, int] = field(default_factory=dict)
    passing: dict[str, int] = field(default_factory=dict)
    peak: int = 0


@contextmanager
def _measured(name: str, part: nn.Module, live: LiveBytes, into: StepMemory) -> Iterator[None]:
    """Notes what each forward pass of a part inside the context takes."""
    before: list[tuple[int, int]] = []

    def enter(*_: Any) -> None:
        before.append((live.live, live.peak))
        live.peak = live.live

    def leave(*_: Any) -> None:
        start, peak = before.pop()
        if torch.is_grad_enabled():
            into.kept[name] = into.kept.get(name, 0) + live.live - start
        else:
            into.passing[name] = max(into.passing.get(name, 0), live.peak - start)
        live.peak = max(live.peak, peak)

    handles = [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def step_memory(parts: Mapping[str, nn.Module], loss: Callable[[], Tensor]) -> StepMemory:
    """What a forward and backward pass takes, on tensors with or without data.

    Args:
        parts: Name -> a module that the pass calls; parts do not contain one another.
        loss: Computes the loss; what it makes and lets go of counts.
    """
    memory = StepMemory()
    with LiveBytes() as live, ExitStack() as stack:
        for name, part in parts.items():
            stack.enter_context(_measured(name, part, live, memory))
        loss().backward()
    memory.peak = live.peak
    return memory


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one process's training, by part.

    Args:
        weights: Network -> its weights, float32; frozen ones too.
        gradients: Of the trained weights.
        moments: AdamW's two, or Muon's one for matrices.
        average: The moving average of the trained weights.
        images: The crops of one optimiser step.
        step: One micro-batch; its peak holds the gradients too.
    """

    weights: dict[str, int]
    gradients: int
    moments: int
    average: int
    images: int
    step: StepMemory

    @property
    def peak(self) -> int:
        """The most at once, from the second optimiser step on."""
        held = sum(self.weights.values()) + self.moments + self.average + self.images
        return held + self.step.peak


def _parts(networks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The networks, an autoencoder as its two halves."""
    parts: dict[str, nn.Module] = {}
    for name, network in networks.items():
        if hasattr(network, "encoder"):
            parts |= {f"{name} {half}": getattr(network, half) for half in ("encoder", "decoder")}
        else:
            parts[name] = network
    return parts


def training_memory(
    networks: Mapping[str, Any], trained: list[str], loss: Loss, optim: OptimConfig, crop: int
) -> TrainingMemory:
    """What a training takes; bf16's copies of the weights count among what is kept.

    Args:
        networks: Name -> network, with data or on the meta device; they stay as they are.
        trained: Which of them are trained; the others are frozen.
        loss: Of one micro-batch.
        optim: The training.
        crop: Side of the images.
    """
    networks = {name: copy.deepcopy(network) for name, network in networks.items()}
    own = 4 * sum(num_params(networks[name]) for name in trained)
    params = [p for name in trained for p in networks[name].parameters()]
    alone = optim.optimizer == "muon"  # the one moment of a matrix
    moments = 4 * sum(p.numel() * (1 if alone and mixes_channels(p) else 2) for p in params)
    with FakeTensorMode(allow_non_fake_inputs=True):  # the networks still are when they enter
        for name, network in networks.items():
            network.to_empty(device="cpu").requires_grad_(name in trained)
            again = optim.gradient_checkpointing and network._supports_gradient_checkpointing
            if name in trained and again:
                network.enable_gradient_checkpointing()

        def micro_batch() -> Tensor:
            if optim.accumulation > 1:  # after the first one the gradients are there already
                for p in (p for name in trained for p in networks[name].parameters()):
                    p.grad = torch.zeros_like(p)
            with torch.autocast("cpu", torch.bfloat16, enabled=optim.precision == "bf16"):
                return loss(networks, images)

        images = torch.empty(optim.batch_size // optim.accumulation, 3, crop, crop)
        step = step_memory(_parts(networks), micro_batch)
    return TrainingMemory(
        weights={name: 4 * num_params(network) for name, network in networks.items()},
        gradients=own,
        moments=moments,
        average=own if optim.ema_decay else 0,
        images=4 * optim.batch_size * 3 * crop * crop,
        step=step,
    )
