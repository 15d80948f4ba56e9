"""Where the convolutions start that change their width, and what is copied beside them."""

from typing import get_args

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import nn

from tocsr.diffusion import NoiseSchedule, denoising_loss, draws
from tocsr.errors import TocsrError
from tocsr.models import starts
from tocsr.models.compact import CompactUNet, from_base_unet, rebuilt
from tocsr.models.local_autoencoder import LocalAutoencoder
from tocsr.models.starts import fit_conv_, latent_ends, principal_start_, start_autoencoder_
from tocsr.models.unet import ADAPTERS
from tocsr.models.unet_starts import latent_matrix, start_unet_
from tocsr.models.vae import (
    Autoencoder,
    LatentMap,
    encode,
    pixels_to_latents,
    reconstruct,
    scaled,
    widened,
)
from tocsr.train import configs

# smooth, with some noise, as photos are
_GENERATOR = torch.Generator().manual_seed(0)
IMAGES = nn.functional.interpolate(
    torch.randn(16, 3, 9, 9, generator=_GENERATOR), 64, mode="bicubic"
) + 0.05 * torch.randn(16, 3, 64, 64, generator=_GENERATOR)
STARTS = get_args(starts.Start)


def local_vae(channels: int, **settings) -> LocalAutoencoder:
    torch.manual_seed(channels)
    vae = LocalAutoencoder(
        latent_channels=channels,
        widths=(12, 24),
        num_encoder_blocks=1,
        num_decoder_blocks=1,
        **settings,
    )
    principal_start_(vae, IMAGES)
    return vae.eval().requires_grad_(False)


def sd_vae(channels: int, quant: bool = True, **settings) -> AutoencoderKL:
    torch.manual_seed(channels)
    vae = AutoencoderKL(
        latent_channels=channels,
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        use_quant_conv=quant,
        use_post_quant_conv=quant,
        **settings,
    )
    return vae.eval().requires_grad_(False)


BASES = {
    "local": lambda: local_vae(4, scaling_factor=0.5, shift_factor=0.1),
    "sd": lambda: sd_vae(4, scaling_factor=0.18),
    "without quant_conv": lambda: sd_vae(4, quant=False, scaling_factor=0.18),
}
# the convolutions at the latent, by name
LATENT_ENDS = {
    "local": {"conv_out", "conv_in"},
    "sd": {"encoder.conv_out", "quant_conv", "post_quant_conv", "decoder.conv_in"},
    "without quant_conv": {"encoder.conv_out", "decoder.conv_in"},
}
TEACHER = {"scaling_factor": 0.36, "shift_factor": 0.12}


def test_the_configurations_offer_the_starts_there_are():
    assert get_args(configs.Start) == STARTS


def started(how: str, base: Autoencoder, teacher: Autoencoder, channels: int = 0) -> Autoencoder:
    torch.manual_seed(5)
    student = widened(base, teacher, channels)
    start_autoencoder_(how, student, base, teacher, IMAGES)
    return student.eval().requires_grad_(False)


def changed_modules(before: nn.Module, after: nn.Module) -> set[str]:
    old = before.state_dict()
    return {
        name.rpartition(".")[0]
        for name, tensor in after.state_dict().items()
        if name not in old or tensor.shape != old[name].shape or not torch.equal(tensor, old[name])
    }


@pytest.mark.parametrize("how", STARTS)
@pytest.mark.parametrize("kind", BASES)
def test_a_start_touches_only_the_convolutions_at_the_latent(kind, how):
    base = BASES[kind]()
    student = started(how, base, sd_vae(16, quant=False, **TEACHER))
    assert changed_modules(base, student) <= LATENT_ENDS[kind]
    assert {**student.state_dict()}.keys() == {**base.state_dict()}.keys()


@pytest.mark.parametrize("kind", BASES)
def test_a_student_of_the_flux_teacher_keeps_its_own_structure(kind):
    base = BASES[kind]()
    student = started("least-squares", base, sd_vae(16, quant=False, **TEACHER))
    assert encode(student, IMAGES).shape == (16, 16, 8, 8)
    assert (student.config.scaling_factor, student.config.shift_factor) == (0.36, 0.12)


@pytest.mark.parametrize("how", ["repeat", "zero"])
@pytest.mark.parametrize("kind", BASES)
def test_a_repeated_or_padded_latent_is_to_the_decoder_what_the_bases_was(kind, how):
    base = BASES[kind]()
    student = started(how, base, sd_vae(16, quant=False, **TEACHER))
    before, after = (
        nn.Sequential(*latent_ends(vae)[1])(encode(vae, IMAGES)) for vae in (base, student)
    )
    # not at the border, where the 3x3 convolution pads with zeros what the shift is added to
    inner = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(after[inner], before[inner], rtol=0, atol=1e-5)


def test_a_repeated_latent_is_the_bases_in_the_students_scale():
    base = BASES["sd"]()
    student = started("repeat", base, sd_vae(16, quant=False, **TEACHER))
    repeated = pixels_to_latents(base, IMAGES).repeat(1, 4, 1, 1)
    torch.testing.assert_close(pixels_to_latents(student, IMAGES), repeated, rtol=0, atol=1e-5)


def latent_error(student: Autoencoder, teacher: Autoencoder) -> float:
    error = encode(student, IMAGES) - encode(teacher, IMAGES)
    return float(error.square().mean() * teacher.config.scaling_factor**2)


@pytest.mark.parametrize("kind", BASES)
def test_least_squares_gives_the_least_latent_loss(kind):
    base, teacher = BASES[kind](), local_vae(16, **TEACHER)
    errors = {how: latent_error(started(how, base, teacher), teacher) for how in STARTS}
    assert min(errors, key=errors.get) == "least-squares", errors


def test_least_squares_decodes_what_the_base_decoded():
    base, teacher = BASES["local"](), local_vae(16, **TEACHER)
    wanted = reconstruct(base, IMAGES)[1]
    errors = {
        how: float((reconstruct(started(how, base, teacher), IMAGES)[1] - wanted).square().mean())
        for how in ("random", "least-squares")
    }
    assert errors["least-squares"] < 0.05 * errors["random"], errors


@pytest.mark.parametrize("channels", [4, 8, 16])
def test_a_map_to_a_teacher_of_other_channels_starts_fitted(channels):
    base, teacher = BASES["local"](), local_vae(12, **TEACHER)
    student = widened(base, teacher, channels)
    latent_map = LatentMap(channels, 12)
    start_autoencoder_("least-squares", student, base, teacher, IMAGES, latent_map)
    target = pixels_to_latents(teacher, IMAGES)
    with torch.no_grad():
        error = (latent_map(encode(student, IMAGES)) - target).square().mean()
    # the components it cannot hold are the weakest
    assert error < 0.5 * target.square().mean()


def test_a_student_of_few_channels_holds_the_teachers_strongest_components():
    base, teacher = BASES["local"](), local_vae(16, **TEACHER)
    student = started("least-squares", base, teacher, channels=8)
    spread = scaled(student, encode(student, IMAGES)).std((0, 2, 3))
    assert torch.equal(spread.argsort(descending=True), torch.arange(8))


def test_a_student_that_can_only_be_a_teacher_is_refused():
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, latent_channels=4
    )
    with pytest.raises(TocsrError, match="got a AutoencoderTiny"):
        started("least-squares", tiny, local_vae(16))


def test_a_fitted_convolution_is_the_one_that_made_the_examples():
    torch.manual_seed(0)
    made_by, fitted = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
    before = fitted.weight[5].clone()
    inputs = torch.randn(8, 3, 8, 8)
    with torch.no_grad():
        fit_conv_(fitted, [(part, made_by(part)) for part in inputs.split(3)])
    # 1e-5: the ridge is a millionth
    torch.testing.assert_close(fitted.weight[:5], made_by.weight, rtol=0, atol=1e-5)
    torch.testing.assert_close(fitted.bias[:5], made_by.bias, rtol=0, atol=1e-5)
    assert torch.equal(fitted.weight[5], before)


def patches_of_few_components() -> torch.Tensor:
    """Images whose 8 x 8 patches span 16 dimensions."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(16, 3, 8, 8, generator=generator)
    weights = torch.randn(2, 16, 4, 4, generator=generator)
    return torch.einsum("bkhw,kcij->bchiwj", weights, basis).reshape(2, 3, 32, 32)


def test_the_principal_start_restores_images_of_as_many_components_as_channels():
    vae = LocalAutoencoder(
        latent_channels=16, widths=(48, 192), num_encoder_blocks=1, num_decoder_blocks=1
    )
    images = patches_of_few_components()
    principal_start_(vae, images)
    # 1e-3: float32 through divisions by the smallest component's spread
    torch.testing.assert_close(vae(images), images, rtol=0, atol=1e-3)


def test_after_the_principal_start_a_latent_error_is_as_large_as_the_images():
    vae = LocalAutoencoder(
        latent_channels=4, widths=(48, 192), num_encoder_blocks=1, num_decoder_blocks=1
    )
    principal_start_(vae, patches_of_few_components())
    change = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    moved = vae.decode(change) - vae.decode(torch.zeros_like(change))
    torch.testing.assert_close(moved.square().sum(), change.square().sum(), rtol=1e-4, atol=0)


BASE = {
    "sample_size": 8,
    "block_out_channels": [8, 12],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "norm_num_groups": 4,
}
TIMESTEP = torch.tensor([300])


@pytest.fixture(scope="module")
def base_unet() -> CompactUNet:
    torch.manual_seed(0)
    return from_base_unet(UNet2DConditionModel(**BASE), num_context_tokens=2).eval()


@pytest.fixture(scope="module")
def vaes() -> tuple[Autoencoder, Autoencoder]:
    """The new autoencoder and the base's."""
    return local_vae(16, scaling_factor=0.5), local_vae(4, scaling_factor=0.4)


def started_unet(how: str, adapter: str, base: CompactUNet, vaes) -> CompactUNet:
    torch.manual_seed(1)
    unet = rebuilt(base, latent_channels=16, adapter=adapter)
    start_unet_(how, unet, base, *vaes, IMAGES, seed=3)
    return unet.eval().requires_grad_(False)


@pytest.mark.parametrize("how", STARTS)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_all_of_a_stock_unet_but_its_ends_is_copied_bitwise(adapter, how, base_unet, vaes):
    unet = started_unet(how, adapter, base_unet, vaes)
    changed = changed_modules(base_unet, unet)
    assert all(name.split(".")[0] in ("conv_in", "conv_out") for name in changed), changed


@pytest.mark.parametrize("how", STARTS)
@pytest.mark.parametrize(
    ("adapter", "ours", "bases"),
    [
        ("v1", "conv_in.1", "conv_in"),
        ("v3", "conv_in.2", "conv_in"),
        ("v3", "conv_out.0", "conv_out"),
    ],
)
def test_v1_and_v3_keep_the_bases_own_ends_bitwise(adapter, ours, bases, how, base_unet, vaes):
    unet = started_unet(how, adapter, base_unet, vaes)
    assert changed_modules(base_unet.get_submodule(bases), unet.get_submodule(ours)) == set()


@pytest.mark.parametrize("how", ["repeat", "zero", "least-squares"])
def test_the_base_sees_noise_of_unit_variance(how, vaes):
    latents = [tuple(pixels_to_latents(vae, IMAGES) for vae in vaes)]
    matrix = latent_matrix(how, 4, latents)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(4).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("how", ["repeat", "zero"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_repeated_or_padded_unet_is_the_base_between_two_matrices(adapter, how, base_unet, vaes):
    unet = started_unet(how, adapter, base_unet, vaes)
    matrix = latent_matrix(how, 4, [tuple(pixels_to_latents(vae, IMAGES) for vae in vaes)]).float()
    noisy = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        seen = base_unet(torch.einsum("mz,bzhw->bmhw", matrix, noisy), TIMESTEP)
        expected = torch.einsum("mz,bmhw->bzhw", matrix, seen)
        torch.testing.assert_close(unet(noisy, TIMESTEP), expected, rtol=0, atol=1e-5)


def diffusion_loss(unet: CompactUNet, clean: torch.Tensor, seed: int) -> float:
    noise, timestep = draws(NoiseSchedule(), clean, seed, list(range(len(clean))))
    with torch.no_grad():
        return float(denoising_loss(unet, NoiseSchedule(), clean, noise, timestep))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_least_squares_gives_the_least_diffusion_loss_on_other_noise(adapter, base_unet, vaes):
    clean = pixels_to_latents(vaes[0], IMAGES)
    losses = {
        how: diffusion_loss(started_unet(how, adapter, base_unet, vaes), clean, 99)
        for how in STARTS
    }
    assert min(losses, key=losses.get) == "least-squares", losses


@pytest.mark.parametrize("adapter", ["v1", "v3"])
def test_four_channels_cannot_say_twelve_of_sixteen_noises(adapter, base_unet, vaes):
    clean = pixels_to_latents(vaes[0], IMAGES)
    unet = started_unet("least-squares", adapter, base_unet, vaes)
    assert diffusion_loss(unet, clean, 99) > 0.75


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("how", STARTS)
def test_every_new_weight_gets_a_gradient(adapter, how, base_unet, vaes):
    unet = started_unet(how, adapter, base_unet, vaes).requires_grad_(True)
    clean = pixels_to_latents(vaes[0], IMAGES)
    noise, timestep = draws(NoiseSchedule(), clean, 5, list(range(len(clean))))
    denoising_loss(unet, NoiseSchedule(), clean, noise, timestep).backward()
    ends = [*unet.conv_in.named_parameters(), *unet.conv_out.named_parameters()]
    assert [name for name, p in ends if p.grad is None or not p.grad.any()] == []


def test_a_base_that_predicts_the_velocity_is_fitted_to_it(base_unet, vaes):
    clean, schedule = pixels_to_latents(vaes[0], IMAGES), NoiseSchedule()
    noise, timestep = draws(schedule, clean, 99, list(range(len(clean))))
    losses = {}
    for how in ("random", "least-squares"):
        unet = rebuilt(base_unet, latent_channels=16, prediction="velocity")
        start_unet_(how, unet, base_unet, *vaes, IMAGES, seed=3)
        with torch.no_grad():
            losses[how] = float(denoising_loss(unet, schedule, clean, noise, timestep, "velocity"))
    assert losses["least-squares"] < losses["random"]


def test_a_unet_for_the_same_latents_starts_as_the_base(base_unet, vaes):
    unet = rebuilt(base_unet)
    start_unet_("least-squares", unet, base_unet, vaes[1], vaes[1], IMAGES, seed=3)
    assert changed_modules(base_unet, unet) == set()
