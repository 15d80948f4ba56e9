"""The adversarial term of the one-step student. Not in the paper; AdcSR and S3Diff have one.

The discriminator is a second network of the same `fit`: one optimiser step trains both, each by its
own term, so that a checkpoint holds the game as it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from torch import Tensor, nn


def adversarial_terms(
    discriminator: nn.Module, student: Tensor, photo: Tensor, *given: Tensor
) -> dict[str, Tensor]:
    """The hinge losses of the student and of the discriminator (Lim and Ye 2017).

    adversarial = -mean D(student), which reaches the student and not the discriminator's weights;
    discriminator = mean max(0, 1 - D(photo)) + mean max(0, 1 + D(student)), which reaches the
    discriminator and not the student. The second is 2 where it cannot tell them apart.

    Args:
        discriminator: D.
        student: Its results, latents (B, Z, h, w) or images (B, 3, H, W).
        photo: The photos, likewise.
        given: What else D is told of each: z_LR (B, Z, h, w) with latents.
    """
    detached = {name: p.detach() for name, p in discriminator.named_parameters()}
    judged = functional_call(discriminator, detached, (student, *given))
    on_student = discriminator(student.detach(), *given)
    on_photo = discriminator(photo, *given)
    return {
        "adversarial": -judged.mean(),
        "discriminator": F.relu(1 - on_photo).mean() + F.relu(1 + on_student).mean(),
    }
