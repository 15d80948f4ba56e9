"""What a network costs: parameters and multiply-accumulates, counted one way everywhere.

`FlopCounterMode` on the meta device, halved: convolutions, linear layers and the two products of
attention count, normalisation and activations do not. On a CPU fused attention would count as 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from tocsr.models.compact import CompactUNet, num_params
from tocsr.models.vae import LATENT_STRIDE, Autoencoder, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Cost:
    """One part's cost.

    Args:
        part: Its name.
        params: Parameters.
        macs: Multiply-accumulates for one image of the size asked about.
    """

    part: str
    params: int
    macs: int

    @property
    def macs_g(self) -> float:
        """GMACs."""
        return self.macs / 1e9


def count_macs(call: Callable[[], object]) -> int:
    """Multiply-accumulates of a computation on the meta device."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2


class _Uncounted(TorchDispatchMode):
    """Notes the operators that run and that `FlopCounterMode` has no formula for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if func.overloadpacket not in flop_registry and not func.is_view:
            self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def uncounted_operators(call: Callable[[], object]) -> list[str]:
    """What `count_macs` of a computation leaves out, by PyTorch's names; views are no work."""
    with torch.no_grad(), _Uncounted() as seen:
        call()
    return sorted(seen.names)


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of the module without data; a module on the meta device already is not copied."""
    if all(p.is_meta for p in module.parameters()):
        return module
    return copy.deepcopy(module).to("meta")


def _params_of(module: nn.Module, prefixes: tuple[str, ...]) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if name.startswith(prefixes))


def unet_cost(unet: CompactUNet, pixels: int) -> Cost:
    """One call of the U-Net for an image of `pixels` x `pixels`.

    The built-in condition c counts as an input, not as parameters.
    """
    side = pixels // LATENT_STRIDE
    channels = unet.latent_channels + unet.config.condition_channels
    meta = on_meta(unet)
    sample = torch.empty(1, channels, side, side, device="meta")
    timestep = torch.empty(1, device="meta")
    return Cost("unet", model_params(unet), count_macs(lambda: meta(sample, timestep)))


def autoencoder_costs(vae: Autoencoder, pixels: int) -> list[Cost]:
    """Encoder and decoder for an image of `pixels` x `pixels`."""
    meta = on_meta(vae)
    side = pixels // LATENT_STRIDE
    image = torch.empty(1, 3, pixels, pixels, device="meta")
    latent = torch.empty(1, vae.config.latent_channels, side, side, device="meta")
    return [
        Cost(
            "encoder",
            _params_of(vae, ("encoder.", "quant_conv.", "conv_out.")),
            count_macs(lambda: encode(meta, image)),
        ),
        Cost(
            "decoder",
            _params_of(vae, ("decoder.", "post_quant_conv.", "conv_in.", "output.")),
            count_macs(lambda: decode(meta, latent)),
        ),
    ]


def pipeline_costs(vae: Autoencoder, unet: CompactUNet, pixels: int) -> list[Cost]:
    """Encoder, U-Net, decoder and the whole of them, for an image of `pixels` x `pixels`."""
    encoder, decoder = autoencoder_costs(vae, pixels)
    parts = [encoder, unet_cost(unet, pixels), decoder]
    return [*parts, total(parts)]


def total(parts: Iterable[Cost]) -> Cost:
    """The sum of costs, called `whole`."""
    parts = list(parts)
    return Cost("whole", sum(c.params for c in parts), sum(c.macs for c in parts))


def stage_params(unet: CompactUNet) -> dict[str, int]:
    """Parameters of each stage's block and, under `rest`, of what no choice changes, c left out."""
    stages = {name: num_params(block) for name, block in unet.stages.items()}
    context = unet.context.numel() if unet.context is not None else 0
    return {**stages, "rest": num_params(unet) - context - sum(stages.values())}


def model_params(unet: CompactUNet) -> int:
    """P(a) = sum over stages of params(B_i^(a_i)), and the fixed rest (Eq. 10)."""
    return sum(stage_params(unet).values())
