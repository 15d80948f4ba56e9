"""Which models have a dial of fidelity; without PyTorch, for the upscaler of a core install."""

from __future__ import annotations

from tocsr.config import require


def check_fidelity(fidelity: float, prediction: str) -> None:
    """Raises a usage error unless a model can be turned to this fidelity.

    One that predicts the noise takes the difference of what it starts from and what it predicts,
    times 14.6, and from noise of another strength than it was trained on the two do not cancel.

    Args:
        fidelity: From 0, as trained, to 1.
        prediction: What the model's U-Net predicts.
    """
    require(0 <= fidelity <= 1, f"fidelity must be from 0 to 1, got {fidelity}")
    require(
        fidelity == 0 or prediction != "noise",
        f"fidelity must be 0 for a model that predicts the noise, got {fidelity}",
        "distil with --prediction clean for a model that can be turned",
    )
