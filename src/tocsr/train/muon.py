"""Muon: an optimiser that takes steps of one size in every direction of a weight matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tocsr.models.base import mixes_channels

if TYPE_CHECKING:
    from collections.abc import Iterable

_MOMENTUM = 0.95
_RMS = (
    0.2  # of an update's elements; about AdamW's, so that its learning rates and decays carry over
)
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5


def orthogonalized(matrix: Tensor) -> Tensor:
    """About U V^T of a matrix U S V^T: its singular values become 0.7 to 1.2.

    Five steps of a quintic Newton-Schulz iteration (Jordan et al. 2024). In bfloat16 on CUDA, as
    torch.optim.Muon does everywhere; processors without bf16 arithmetic take 17 times longer so.

    Shape:
        (M, N) -> (M, N), float32.
    """
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / x.norm().clamp_min(1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if is_tall else x).float()


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for matrices, AdamW for biases, norms and depthwise convolutions.

    Not in the paper. A convolution counts as the matrix (out, in * height * width). Updates are
    scaled as Liu et al. 2025 (Moonlight) do, so a learning rate means what it means to AdamW.

    Args:
        params: What is trained, tensors or groups of them.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
    ) -> None:
        given: list[Any] = list(params)
        groups = given if isinstance(given[0], dict) else [{"params": given}]
        split = [
            group
            | {"params": [p for p in group["params"] if mixes_channels(p) == mix], "muon": mix}
            for group in groups
            for mix in (True, False)
        ]
        super().__init__(split, lr=lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every parameter that has a gradient; the matrices' are used up."""
        for group in self.param_groups:
            for weight in group["params"] if group["muon"] else ():
                if weight.grad is not None:
                    self._update_(weight, weight.grad, group["lr"], group["weight_decay"])
                    weight.grad = None  # so AdamW passes over it
        return super().step(closure)

    def _update_(self, weight: Tensor, grad: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
            state["step"] = torch.zeros(())  # AdamW looks for one where it loads a state
        state["step"] += 1
        average = state["momentum"].mul_(_MOMENTUM).add_(grad)
        ahead = grad.add(average, alpha=_MOMENTUM).flatten(1)  # Nesterov's
        update = orthogonalized(ahead).reshape_as(weight)
        weight.mul_(1 - lr * weight_decay)
        weight.add_(update, alpha=-lr * _RMS * max(ahead.shape) ** 0.5)
