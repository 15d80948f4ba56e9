"""Where the convolutions start that change their width: the autoencoder's (paper 3.1).

Not in the paper, which does not say. Everything else is copied from the base networks, so these few
convolutions decide how much of what was learned shows at the first step; `benchmarks/starts.py`
measures each way:

- `random`: as constructed;
- `repeat`: the base's channels in turn, rescaled;
- `zero`: the base's channels first, the others without effect;
- `least-squares`: by regression on the latents of a batch of images.

The U-Net's are in `unet_starts`.

Legend: B batch, H W pixels, Z latent channels, h = H / 8, w = W / 8. Images are in [-1, 1].
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from tocsr.errors import TocsrError
from tocsr.models.local_autoencoder import PIXEL_SHUFFLE, LocalAutoencoder
from tocsr.models.vae import Autoencoder, LatentMap, encode, scaled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Start = Literal["random", "repeat", "zero", "least-squares"]

IMAGES_AT_A_TIME = 8  # images at a time: SD's encoder takes gigabytes for more at 512 x 512


def pixel_rows(features: Tensor) -> Tensor:
    """(B, C, h, w) -> float64 (B h w, C): one row per pixel."""
    return features.movedim(1, -1).flatten(0, -2).double()


def _set_pointwise_(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None = None) -> None:
    """Makes a convolution one matrix (out, in) per pixel: its centre tap, the others zero.

    Outputs that the matrix lacks give zero; the weights of inputs that it lacks stay as they are.
    """
    rows, columns = weight.shape
    nn.init.zeros_(conv.weight[:, :columns])
    middle = conv.kernel_size[0] // 2
    conv.weight[:rows, :columns, middle, middle] = weight.to(conv.weight)
    if conv.bias is not None:
        conv.bias.copy_(torch.zeros_like(conv.bias) if bias is None else bias)


@torch.no_grad()
def principal_start_(vae: LocalAutoencoder, images: Tensor) -> None:
    """Starts an autoencoder as the principal components of patches.

    Not in the paper: random weights need thousands of steps to learn what three eigenvalue
    problems give. Each convolution that changes the width keeps the strongest components of what
    reaches it, its mirror in the decoder is the transpose, and the residual blocks start as the
    identity; so the whole is an orthogonal projection, which training then improves, and an error
    of the latent is as large as the error of the image that it makes. Channels beyond the number of
    components start at zero in the encoder.

    Args:
        vae: With weights as constructed.
        images: (B, 3, H, W) in [-1, 1].
    """
    down = [layer for layer in vae.encoder if isinstance(layer, nn.Conv2d)]
    up = [layer for layer in vae.decoder if isinstance(layer, nn.Conv2d)]
    h = F.pixel_unshuffle(images, PIXEL_SHUFFLE)
    for forth, back in ((down[0], up[1]), (down[1], up[0]), (vae.conv_out, vae.conv_in)):
        if forth is down[1]:
            h = F.pixel_unshuffle(h, 2)
        rows = pixel_rows(h)
        _, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))  # weakest first
        kept = vectors.flip(1)[:, : forth.out_channels].T
        _set_pointwise_(forth, kept)
        _set_pointwise_(back, kept.T)
        h = forth(h)


def fit_conv_(conv: nn.Conv2d, examples: Iterable[tuple[Tensor, Tensor]]) -> None:
    """The convolution that comes nearest to the examples in the least-squares sense.

    Normal equations in float64, with a ridge of a millionth of the inputs' mean power.

    Args:
        conv: With stride 1 and zero padding to the same size.
        examples: Pairs of an input (B, in, h, w) and the output it should give (B, n, h, w), the
            convolution's first n channels; its other channels stay as they are.
    """
    num = conv.weight[0].numel() + 1
    gram = torch.zeros(num, num, dtype=torch.float64, device=conv.weight.device)
    cross: Tensor | int = 0
    for given, wanted in examples:
        patches = F.unfold(given.double(), conv.kernel_size, padding=conv.kernel_size[0] // 2)
        rows = F.pad(patches.transpose(1, 2).flatten(0, 1), (0, 1), value=1)  # the bias's is last
        gram += rows.T @ rows
        cross = cross + rows.T @ pixel_rows(wanted)
    ridge = 1e-6 * gram.diagonal()[:-1].mean() * torch.ones_like(gram[0])
    ridge[-1] = 0
    solution = torch.linalg.solve(gram + ridge.diag(), cross).T  # (n, in k^2 + 1)
    weight = solution[:, :-1].view(len(solution), *conv.weight.shape[1:])
    set_conv_(conv, weight, solution[:, -1])


def set_conv_(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """Sets the first output channels of a convolution; the others stay as they are."""
    conv.weight[: len(weight)] = weight.to(conv.weight)
    conv.get_parameter("bias")[: len(bias)] = bias.to(conv.weight)


def input_of(conv: nn.Conv2d, run: Callable[[], object]) -> Tensor:
    """What reaches a convolution while `run` runs."""
    seen: list[Tensor] = []
    hook = conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    run()
    hook.remove()
    return seen[-1]


def channel_map(how: str, few: int, many: int) -> Tensor:
    """The matrix B (many, few) that makes many channels of few, float64."""
    if how == "repeat":
        return torch.eye(few).double()[torch.arange(many) % few]
    return torch.eye(many, few).double()


def latent_ends(vae: Autoencoder) -> tuple[list[nn.Conv2d], list[nn.Conv2d]]:
    """The convolutions just before the latent and just after it; the 3x3 one holds the map.

    Raises:
        TocsrError: An autoencoder of a class that is only ever a teacher.
    """
    if isinstance(vae, LocalAutoencoder):
        return [vae.conv_out], [vae.conv_in]
    if isinstance(vae, AutoencoderKL):
        before, after = [vae.encoder.conv_out, vae.quant_conv], [vae.post_quant_conv]
        present = [conv for conv in (*before, *after) if conv is not None]
        return (
            [conv for conv in present if conv in before],
            [*(conv for conv in present if conv in after), vae.decoder.conv_in],
        )
    raise TocsrError(
        f"the base autoencoder must be an AutoencoderKL or a LocalAutoencoder, got a "
        f"{type(vae).__name__}"
    )


def _composed(convs: list[nn.Conv2d]) -> tuple[Tensor, Tensor]:
    """One convolution's weight and bias (float64) for two in a row, of which one is 1x1.

    Where the second is the 3x3 one, its padding pads what the first one's bias is added to; at the
    image's border the result differs by that.
    """
    weight, bias = convs[0].weight.double(), convs[0].get_parameter("bias").double()
    for conv in convs[1:]:
        later = conv.weight.double()
        bias = conv.get_parameter("bias").double() + later.sum((2, 3)) @ bias
        if later.shape[2:] == (1, 1):
            weight = torch.einsum("om,mikl->oikl", later[:, :, 0, 0], weight)
        else:
            weight = torch.einsum("omkl,mi->oikl", later, weight[:, :, 0, 0])
    return weight, bias


def _repeat_autoencoder_(how: str, student: Autoencoder, base: Autoencoder) -> None:
    """Student channels made of the base's, in the student's scale, and back."""
    (to_latent, *_), (*_, from_latent) = latent_ends(student)
    before, after = latent_ends(base)
    few, many = base.config.latent_channels, student.config.latent_channels
    forth = channel_map(how, few, many).to(from_latent.weight.device)
    back = torch.linalg.pinv(forth)
    # base latent -> student latent: times ratio, plus shift
    ratio = base.config.scaling_factor / student.config.scaling_factor
    shift = (student.config.shift_factor or 0.0) - ratio * (base.config.shift_factor or 0.0)
    weight, bias = _composed(before)
    mixed = torch.einsum("om,mikl->oikl", ratio * forth, weight[:few])
    set_conv_(to_latent, mixed, ratio * forth @ bias[:few] + shift)
    weight, bias = _composed(after)
    shifts = torch.full((many,), shift, dtype=torch.float64, device=weight.device)
    mixed = torch.einsum("omkl,mi->oikl", weight, back / ratio)
    set_conv_(from_latent, mixed, bias - weight.sum((2, 3)) @ (back / ratio) @ shifts)


def _strongest(latents: list[Tensor], num: int, shift: float) -> list[Tensor]:
    """The principal components (B, num, h, w) of latents (B, Z, h, w), about `shift`."""
    rows = pixel_rows(torch.cat(latents))
    mean = rows.mean(0)
    _, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean))  # weakest first
    matrix, mean = vectors.flip(1)[:, :num].T.float(), mean.float().view(-1, 1, 1)
    return [torch.einsum("om,bmhw->bohw", matrix, z.float() - mean) + shift for z in latents]


def _fit_autoencoder_(
    student: Autoencoder, base: Autoencoder, teacher: Autoencoder, images: Tensor
) -> None:
    """The encoder's end gives the teacher's latent, the decoder's takes it to the base's features.

    Of a teacher with more channels the student learns the principal components; one with fewer
    leaves the student's other channels as constructed.
    """
    (to_latent, *_), (*_, from_latent) = latent_ends(student)
    after = latent_ends(base)[1]
    parts = images.split(IMAGES_AT_A_TIME)
    latents = [encode(teacher, part) for part in parts]
    num = student.config.latent_channels
    if num < teacher.config.latent_channels:
        latents = _strongest(latents, num, student.config.shift_factor or 0.0)
    given = (input_of(to_latent, partial(encode, student, part)) for part in parts)
    fit_conv_(to_latent, zip(given, latents, strict=True))
    wanted = (nn.Sequential(*after)(encode(base, part)) for part in parts)
    fit_conv_(from_latent, zip((encode(student, part) for part in parts), wanted, strict=True))


@torch.no_grad()
def start_autoencoder_(
    how: Start,
    student: Autoencoder,
    base: Autoencoder,
    teacher: Autoencoder,
    images: Tensor,
    latent_map: LatentMap | None = None,
) -> None:
    """Starts the student's convolutions at the latent.

    What lies between a 3x3 convolution and the latent, SD's 1x1 `quant_conv` and `post_quant_conv`,
    starts as the identity. Half of `quant_conv` gives a variance, which nothing here uses.

    Args:
        how: The way.
        student: As `widened` made it.
        base: The autoencoder it was made from.
        teacher: Whose latents it is to give.
        images: (B, 3, H, W) in [-1, 1]; only `least-squares` looks at them.
        latent_map: Where the teacher has another number of channels; only `least-squares` sets it.

    Raises:
        TocsrError: A student of a class that is only ever a teacher.
    """
    if how == "random":
        return
    if student.config.latent_channels != base.config.latent_channels:
        before, after = latent_ends(student)
        for pointwise in (*before[1:], *after[:-1]):
            nn.init.dirac_(pointwise.weight)
            nn.init.zeros_(pointwise.get_parameter("bias"))
        if how == "least-squares":
            _fit_autoencoder_(student, base, teacher, images)
        else:
            _repeat_autoencoder_(how, student, base)
    if latent_map and how == "least-squares":
        parts = images.split(IMAGES_AT_A_TIME)
        pairs = ((encode(student, x), scaled(teacher, encode(teacher, x))) for x in parts)
        fit_conv_(latent_map.conv, pairs)
