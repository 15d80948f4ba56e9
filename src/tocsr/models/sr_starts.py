"""How a backbone becomes a super-resolver: z_LR beside z_t, another prediction (Eq. 20)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from tocsr.models.compact import rebuilt
from tocsr.models.layers import zero_last_

if TYPE_CHECKING:
    from tocsr.diffusion import Prediction
    from tocsr.models.compact import CompactUNet

ConditionStart = Literal["zero", "copied"]
_NOISY_SHARE = 0.1  # of the backbone's weights for z_t that `copied` leaves it


@torch.no_grad()
def with_condition(unet: CompactUNet, start: ConditionStart = "zero") -> CompactUNet:
    """The U-Net that takes z_LR beside z_t (Eq. 20).

    Args:
        unet: The backbone.
        start: Of the new input weights. `zero`: at its first step the network predicts what the
            backbone predicts, whatever z_LR is. `copied`, for one whose head starts anew
            (`with_prediction`): z_LR goes in by the backbone's weights for z_t, and z_t by a tenth
            of them. With zeros at both ends there is no way from z_LR to the result that a gradient
            could follow; at the last timesteps, where z_t is noise, training then stands still.
    """
    conditioned_unet = rebuilt(unet, condition_channels=unet.latent_channels)
    first = _first_conv(conditioned_unet.conv_in)
    first.weight.zero_()
    own = _first_conv(unet.conv_in).weight
    noisy, condition = first.weight.split(unet.latent_channels, dim=1)
    noisy.copy_(own)
    if start == "copied":
        condition.copy_(own)
        scale_noise_input_(conditioned_unet, _NOISY_SHARE)
    if first.bias is not None:
        first.bias.copy_(_first_conv(unet.conv_in).get_parameter("bias"))
    return conditioned_unet


def with_prediction(unet: CompactUNet, prediction: Prediction) -> CompactUNet:
    """The U-Net made to predict something else, its last convolution then starting at zero.

    So a conditioned U-Net that is to predict the clean latent starts as z_LR. One that is to
    predict the noise starts with z_T / sqrt(abar_T) in one step, which is far from anything: the
    paper's form is for a backbone that predicts the noise already.
    """
    if unet.config.prediction == prediction:
        return unet
    changed = rebuilt(unet, prediction=prediction)
    zero_last_(changed.conv_out)
    return changed


def scale_noise_input_(unet: CompactUNet, share: float) -> None:
    """Multiplies the input weights for z_t of a conditioned U-Net by `share`."""
    with torch.no_grad():
        _first_conv(unet.conv_in).weight[:, : unet.latent_channels] *= share


def _first_conv(module: nn.Module) -> nn.Conv2d:
    return next(part for part in module.modules() if isinstance(part, nn.Conv2d))
