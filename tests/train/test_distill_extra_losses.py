"""The extra losses of distillation: what each is, and whom each one trains."""

import dataclasses

import pytest
import torch
from micro import MICRO, micro_config
from safetensors.torch import save_file
from torch.nn import functional as F  # noqa: N812

from tocsr.data.images import Batch, Place
from tocsr.models.discriminator import PixelDiscriminator
from tocsr.models.folders import base_vae
from tocsr.models.perceptual import ShiftTolerantLPIPS
from tocsr.models.vae import latents_to_pixels, pixels_to_latents
from tocsr.train.adversary import adversarial_terms
from tocsr.train.one_step_losses import Extras, extra_terms, grid_error, sub_crops, weighted

NUMBERS = torch.Generator().manual_seed(0)
IMAGES = torch.rand(2, 3, 64, 64, generator=NUMBERS) * 2 - 1
BATCH = Batch(IMAGES, [4, 7], [Place("a", 0, 0, False), Place("b", 0, 0, False)])
STUDENT, LR = (torch.randn(2, 16, 8, 8, generator=NUMBERS) for _ in range(2))
OFF = dict.fromkeys(
    ("pixel_weight", "perceptual_weight", "latent_weight", "grid_weight", "adversarial_weight"), 0.0
)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return base_vae(str(MICRO), "vae_teacher").requires_grad_(False)


@pytest.fixture
def settings(tmp_path):
    """A configuration with these weights, all others off."""

    def settings(**values):
        return dataclasses.replace(micro_config("distill", tmp_path), **{**OFF, **values})

    return settings


def terms_of(config, vae, student=STUDENT, extras=None):
    extras = extras or Extras.start(config, vae)
    return extra_terms(config, extras, vae, student, LR, BATCH)


def test_the_grid_of_a_result_is_what_it_repeats_beyond_its_photo():
    net = torch.rand(1, 3, 8, 8, generator=NUMBERS).tile(1, 1, 8, 8)
    assert grid_error(IMAGES + net, IMAGES) > 0.1
    assert grid_error(IMAGES, IMAGES + net) == 0  # a photo's own pattern may be repeated
    assert grid_error(IMAGES, IMAGES) == 0


def test_a_term_that_is_off_is_not_computed(settings, vae):
    config = settings()
    assert Extras.start(config, vae) == Extras()
    assert terms_of(config, vae) == {}


@pytest.mark.parametrize("name", ["pixel", "perceptual", "latent", "adversarial"])
def test_a_term_that_is_off_leaves_the_others_gradient_as_it_is(settings, vae, name):
    def gradient(**values):
        config = settings(**values)
        student = STUDENT.clone().requires_grad_()
        terms = {"distill": student.square().mean(), **terms_of(config, vae, student)}
        return torch.autograd.grad(weighted(config, terms), student)[0]

    assert torch.equal(gradient(), gradient(**{f"{name}_weight": 0.0}))
    assert not torch.equal(gradient(), gradient(**{f"{name}_weight": 0.5}))


def test_each_term_counts_with_its_weight(settings):
    config = settings(
        pixel_weight=2.0, perceptual_weight=3.0, latent_weight=5.0, adversarial_weight=7.0
    )
    names = ("distill", "pixel", "perceptual", "latent", "adversarial", "discriminator")
    terms = {name: torch.tensor(10.0**i) for i, name in enumerate(names)}
    assert weighted(config, terms) == 1 + 20 + 300 + 5000 + 70_000 + 700_000


def test_the_pixel_term_is_l1_of_the_decoded_image(settings, vae):
    terms = terms_of(settings(pixel_weight=0.5), vae)
    expected = (latents_to_pixels(vae, STUDENT) - IMAGES).abs().mean()
    torch.testing.assert_close(terms, {"pixel": expected})


@pytest.mark.parametrize("name", ["pixel", "perceptual", "latent"])
def test_a_term_trains_the_student_and_no_frozen_network(settings, vae, name):
    student = STUDENT.clone().requires_grad_()
    terms_of(settings(**{f"{name}_weight": 1.0}), vae, student)[name].backward()
    assert student.grad.abs().min() > 0
    assert all(p.grad is None for p in vae.parameters())


@pytest.mark.parametrize("sees", ["latents", "pixels"])
def test_each_player_of_the_game_is_trained_by_its_own_term(settings, vae, sees):
    config = settings(adversarial_weight=1.0, adversarial=sees)
    extras = Extras.start(config, vae)
    weights = list(extras.discriminator.parameters())
    student = STUDENT.clone().requires_grad_()
    terms = terms_of(config, vae, student, extras)
    terms["adversarial"].backward(retain_graph=True)
    assert student.grad.abs().sum() > 0
    assert all(p.grad is None for p in weights)
    student.grad = None
    terms["discriminator"].backward()
    assert student.grad is None
    assert all(p.grad.any() for p in weights)


def test_the_hinge_losses_in_closed_form():
    class Judge(torch.nn.Module):
        def forward(self, latent, lr_latent):
            return latent.mean(dim=1, keepdim=True)

    student, photo = torch.full((1, 2, 2, 2), -0.25), torch.full((1, 2, 2, 2), 0.5)
    terms = adversarial_terms(Judge(), student, photo, student)
    assert terms["adversarial"] == 0.25
    assert terms["discriminator"] == (1 - 0.5) + (1 - 0.25)


@pytest.mark.parametrize("sees", ["latents", "pixels"])
def test_the_discriminator_learns_to_tell_photos_from_others(settings, vae, sees):
    config = settings(adversarial_weight=1.0, adversarial=sees)
    discriminator = Extras.start(config, vae).discriminator
    latents = (STUDENT, pixels_to_latents(vae, IMAGES), LR)
    players = latents if sees == "latents" else (latents_to_pixels(vae, STUDENT), IMAGES)
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = adversarial_terms(discriminator, *players)["discriminator"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2, abs=1)
    assert losses[-1] < 0.5 * losses[0]


def test_a_patch_of_pixels_is_28_wide():
    torch.manual_seed(0)
    image = torch.randn(1, 3, 64, 64, requires_grad=True)
    PixelDiscriminator()(image)[0, 0, 8, 8].backward()
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == 28


def test_a_faint_net_of_dots_is_soon_told_from_photos():
    torch.manual_seed(0)
    images = F.interpolate(torch.rand(80, 3, 4, 4) * 2 - 1, size=32, mode="bicubic")
    images += 0.03 * torch.randn_like(images)
    net = torch.zeros(32, 32)
    net[::4, ::4] = 0.05
    discriminator = PixelDiscriminator()
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=1e-3)
    for batch in list(images[:64].split(16)) * 10:
        terms = adversarial_terms(discriminator, batch[8:] + net, batch[:8])
        optimizer.zero_grad()
        terms["discriminator"].backward()
        optimizer.step()
    with torch.no_grad():
        photos, others = discriminator(images[64:72]), discriminator(images[72:] + net)
    assert photos.mean(dim=(1, 2, 3)).min() > others.mean(dim=(1, 2, 3)).max()


def test_the_discriminator_starts_by_the_seed(settings, vae):
    def start(seed):
        torch.manual_seed(seed + 1)  # what happened before does not matter
        config = dataclasses.replace(settings(adversarial_weight=1.0), seed=seed)
        return next(Extras.start(config, vae).discriminator.parameters())

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


def test_sub_crops_are_functions_of_seed_and_index():
    image = torch.arange(64.0 * 64).view(1, 64, 64).expand(3, 64, 64)  # its place in each pixel
    crops = sub_crops(torch.stack([image] * 3), 32, 0, [1, 2, 1])
    assert crops.shape == (3, 3, 32, 32)
    assert torch.equal(crops[0], crops[2])
    assert not torch.equal(crops[0], crops[1])
    assert torch.equal(crops[1:2], sub_crops(image[None], 32, 0, [2]))
    assert not torch.equal(crops[0], sub_crops(image[None], 32, 1, [1])[0])


def test_the_perceptual_term_looks_at_the_same_square_of_both(settings, vae):
    config = settings(perceptual_weight=1.0, perceptual_crop=32)
    looked_at = []

    def distance(x, y):
        looked_at.append((x, y))
        return (x - y).square().mean(dim=(1, 2, 3))

    terms = terms_of(config, vae, extras=Extras(perceptual=distance))
    ((decoded, photo),) = looked_at
    assert torch.equal(photo, sub_crops(IMAGES, 32, config.seed, BATCH.indices))
    whole = sub_crops(latents_to_pixels(vae, STUDENT), 32, config.seed, BATCH.indices)
    assert torch.equal(decoded, whole)
    torch.testing.assert_close(terms["perceptual"], F.mse_loss(decoded, photo))


def test_a_file_of_weights_stands_in_for_the_encoder(settings, vae, tmp_path):
    torch.manual_seed(0)
    metric = ShiftTolerantLPIPS("alex")
    names = {f"heads.{i}": f"lin{i}.model.1.weight" for i in range(5)}
    state = {names.get(name, name): tensor for name, tensor in metric.state_dict().items()}
    save_file(state, tmp_path / "alex.safetensors")
    config = settings(perceptual_weight=1.0, perceptual=str(tmp_path / "alex.safetensors"))
    expected = metric(latents_to_pixels(vae, STUDENT), IMAGES).mean()
    torch.testing.assert_close(terms_of(config, vae), {"perceptual": expected})
