"""The adversarial term of the one-step student. Not in the paper; AdcSR and S3Diff have one.

The discriminator is a second network of the same `fit`: one optimiser step trains both, each by its
own term, so that a checkpoint holds the game as it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from torch import Tensor

    from tocsr.models.discriminator import LatentDiscriminator


def adversarial_terms(
    discriminator: LatentDiscriminator, student_latent: Tensor, photo_latent: Tensor, z_lr: Tensor
) -> dict[str, Tensor]:
    """The hinge losses of the student and of the discriminator (Lim and Ye 2017).

    adversarial = -mean D(student), which reaches the student and not the discriminator's weights;
    discriminator = mean max(0, 1 - D(photo)) + mean max(0, 1 + D(student)), which reaches the
    discriminator and not the student. The second is 2 where it cannot tell them apart.

    Args:
        discriminator: D, given z_LR.
        student_latent: z0_hat (B, Z, h, w).
        photo_latent: z_0 of the photos, likewise.
        z_lr: z_LR, likewise.
    """
    detached = {name: p.detach() for name, p in discriminator.named_parameters()}
    judged = functional_call(discriminator, detached, (student_latent, z_lr))
    on_student = discriminator(student_latent.detach(), z_lr)
    on_photo = discriminator(photo_latent, z_lr)
    return {
        "adversarial": -judged.mean(),
        "discriminator": F.relu(1 - on_photo).mean() + F.relu(1 + on_student).mean(),
    }
