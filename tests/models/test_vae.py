import pytest
import torch
from diffusers import AutoencoderKL

from tocsr.errors import TocsrError
from tocsr.models.local_autoencoder import LocalAutoencoder, OutputLayers
from tocsr.models.vae import (
    LatentMap,
    encode,
    latents_to_pixels,
    lr_to_latents,
    pixels_to_latents,
    reconstruct,
    reconstruct_with_loss,
    upsample,
    widened,
    with_output_layers,
)

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def local_vae(channels: int = 4, **settings) -> LocalAutoencoder:
    torch.manual_seed(channels)
    return LocalAutoencoder(
        latent_channels=channels,
        widths=(8, 12),
        num_encoder_blocks=1,
        num_decoder_blocks=1,
        **settings,
    )


def sd_vae(channels: int = 4) -> AutoencoderKL:
    torch.manual_seed(channels)
    return AutoencoderKL(
        latent_channels=channels,
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        scaling_factor=0.5,
    ).eval()


@pytest.mark.parametrize("vae", [local_vae(), sd_vae()], ids=["local", "sd"])
def test_an_image_becomes_a_latent_of_an_eighth_and_an_image_again(vae):
    latent, image = reconstruct(vae, IMAGES)
    assert latent.shape == (2, 4, 4, 4)
    assert image.shape == IMAGES.shape


def test_the_latent_of_a_distribution_is_its_mode():
    vae = sd_vae()
    assert torch.equal(encode(vae, IMAGES), vae.encode(IMAGES).latent_dist.mean)


def test_scaling_is_undone_before_decoding():
    vae = local_vae(scaling_factor=2.0, shift_factor=0.3)
    restored = latents_to_pixels(vae, pixels_to_latents(vae, IMAGES))
    torch.testing.assert_close(restored, vae(IMAGES), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [local_vae, sd_vae])
def test_the_student_has_the_teachers_channels_and_scale(make):
    teacher = local_vae(16, scaling_factor=3.0, shift_factor=0.1)
    student = widened(make(), teacher)
    assert encode(student, IMAGES).shape[1] == 16
    assert (student.config.scaling_factor, student.config.shift_factor) == (3.0, 0.1)


def test_widening_changes_only_the_convolutions_at_the_latent():
    vae = sd_vae()
    before, after = vae.state_dict(), widened(vae, local_vae(16)).state_dict()
    changed = {
        n.rsplit(".", 1)[0]
        for n in after
        if not torch.equal(
            after[n], before[n][:0] if after[n].shape != before[n].shape else before[n]
        )
    }
    assert changed == {"encoder.conv_out", "quant_conv", "post_quant_conv", "decoder.conv_in"}


def vae_loss(student, teacher, rec_weight, rec_norm="l1", latent_map=None):
    target = pixels_to_latents(teacher, IMAGES).detach()
    return reconstruct_with_loss(student, latent_map, target, IMAGES, rec_weight, rec_norm)[1]


def test_a_student_that_is_the_teacher_has_no_latent_loss():
    vae = local_vae()
    assert vae_loss(vae, vae, 1.0)["latent"] == 0


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("mse", 2)])
def test_the_loss_is_the_latent_term_plus_lambda_times_the_reconstruction(norm, power):
    student, teacher = local_vae(scaling_factor=2.0), local_vae(4, scaling_factor=2.0)
    torch.nn.init.normal_(student.conv_out.weight)
    terms = vae_loss(student, teacher, 0.5, norm)
    latent = 4 * (encode(student, IMAGES) - encode(teacher, IMAGES)).square().mean()
    rec = (student(IMAGES) - IMAGES).abs().pow(power).mean()
    torch.testing.assert_close(terms["loss"], latent + 0.5 * rec)


def test_a_map_makes_latents_of_other_widths_comparable():
    student, teacher = local_vae(4), local_vae(6)
    latent_map = LatentMap(4, 6)
    terms = vae_loss(student, teacher, 0.0, latent_map=latent_map)
    mapped = latent_map.conv(encode(student, IMAGES))
    expected = (mapped - encode(teacher, IMAGES)).square().mean()
    torch.testing.assert_close(terms["loss"], expected)
    terms["loss"].backward()
    assert latent_map.conv.weight.grad.abs().max() > 0


def test_one_pass_gives_the_scaled_latent_beside_the_loss():
    vae = local_vae(scaling_factor=2.0, shift_factor=0.5)
    latent, _ = reconstruct_with_loss(vae, None, pixels_to_latents(vae, IMAGES), IMAGES, 1.0)
    torch.testing.assert_close(latent, pixels_to_latents(vae, IMAGES))


def test_upsampling_keeps_a_constant():
    flat = torch.full((1, 3, 5, 7), 0.25)
    torch.testing.assert_close(upsample(flat, 4), torch.full((1, 3, 20, 28), 0.25))


def test_the_condition_is_the_latent_of_the_upsampled_image():
    vae, lr = local_vae(), IMAGES[..., :8, :8]
    assert torch.equal(lr_to_latents(vae, lr, 4), pixels_to_latents(vae, upsample(lr, 4)))


def test_the_autoencoder_sees_a_bounded_neighbourhood():
    vae = local_vae()
    wide = torch.randn(1, 3, 16, 512, generator=torch.Generator().manual_seed(1))
    other = wide.clone()
    other[..., 400:] += 1
    assert torch.equal(vae(wide)[..., :64], vae(other)[..., :64])


def test_output_layers_change_nothing_at_first():
    vae = local_vae()
    assert torch.equal(with_output_layers(vae, 4)(IMAGES), vae(IMAGES))


def test_output_layers_are_the_same_at_every_pixel():
    torch.manual_seed(0)
    layers = OutputLayers(4)
    torch.nn.init.normal_(layers.conv_out.weight)
    torch.nn.init.normal_(layers.block.conv2.weight)
    made, shifted = layers(IMAGES), layers(IMAGES.roll((3, 5), (2, 3))).roll((-3, -5), (2, 3))
    inner = (..., slice(4, 25), slice(4, 23))  # what sees no border
    torch.testing.assert_close(made[inner], shifted[inner])


def test_output_layers_that_are_there_stay():
    vae = with_output_layers(local_vae(), 4)
    assert with_output_layers(vae, 4) is vae
    with pytest.raises(TocsrError, match="got LocalAutoencoder of 4"):
        with_output_layers(vae, 8)


def test_output_layers_need_a_local_autoencoder():
    with pytest.raises(TocsrError, match="got AutoencoderKL of 0"):
        with_output_layers(sd_vae(), 4)
