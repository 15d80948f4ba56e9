"""Degrading a batch: the plain reduction, the second order step by step, and the same for ever."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch._subclasses.fake_tensor import FakeTensorMode

from tocsr.config import DataConfig, Source
from tocsr.data.degradation.draws import Draw, draw
from tocsr.data.degradation.jpeg import jpeg, pillow_jpeg
from tocsr.data.degradation.kernels import kernel
from tocsr.data.degradation.noise import add_gaussian_noise, add_poisson_noise
from tocsr.data.degradation.resize import resize
from tocsr.data.degradation.settings import load_degradation
from tocsr.data.degrade import degrade
from tocsr.data.images import PhotoCrops, to_tensor, to_uint8
from tocsr.seeding import derive_seed

QUIET = """
base: mild
first: {blur_prob: 0.0, resize_prob: {up: 0, down: 0, keep: 1}, gaussian_noise_prob: 1.0,
  noise_range: [0, 0], jpeg_range: [100, 100]}
second: {blur_prob: 0.0, resize_prob: {up: 0, down: 0, keep: 1}, gaussian_noise_prob: 1.0,
  noise_range: [0, 0], jpeg_range: [100, 100]}
final_sinc_prob: 0.0
no_degradation_prob: 0.0
"""


def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC))


def crops(num: int, crop: int = 64) -> torch.Tensor:
    data = PhotoCrops(DataConfig(sources=[Source(path="builtin", limit=6)], crop=crop), 0, num)
    return torch.stack([data[index][0] for index in range(num)])


# ---- the plain reduction


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_is_pillows_to_one_level(factor):
    pixels = photo()
    ours = to_uint8(degrade(to_tensor(pixels)[None], factor, "bicubic", 0, [0])[0])
    size = (128 // factor, 96 // factor)
    pillow = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    # Pillow rounds to 8 bits after each of its two passes
    assert np.abs(ours.astype(int) - pillow).max() <= 1


def test_what_is_not_degraded_is_the_plain_reduction(tmp_path):
    file = tmp_path / "plain.yaml"
    file.write_text("base: hard\nno_degradation_prob: 1.0")
    images = crops(2)
    plain = degrade(images, 4, "bicubic", 0, [0, 1])
    assert torch.equal(degrade(images, 4, str(file), 0, [0, 1]), plain)


@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_a_lens_blurs_before_the_plain_reduction(tmp_path, sigma):
    file = tmp_path / "lens.yaml"
    file.write_text(
        f"base: mild\nno_degradation_prob: 1.0\nlens_prob: 1.0\nlens_sigma: [{sigma}, {sigma}]"
    )
    images = crops(1)
    ours = degrade(images, 4, str(file), 0, [0])[0]

    def reduced(sigma):
        blurred = ndimage.gaussian_filter(images[0].numpy(), (0, sigma, sigma), mode="mirror")
        return degrade(torch.from_numpy(blurred)[None], 4, "bicubic", 0, [0])[0]

    # a kernel is at most that wide along its one axis, and at least 0.7 of it along the other
    wider, narrower = reduced(sigma), reduced(0.7 * sigma)
    assert wider.std() < ours.std() < narrower.std()
    for bound in (wider, narrower):
        assert (ours - bound).abs().mean() < (wider - narrower).abs().mean()


# ---- the second order


def by_hand(image: torch.Tensor, factor: int, chosen: Draw, seed: int, index: int) -> torch.Tensor:
    """The degradation of one image (1, 3, H, W) in [0, 1], its steps in a row."""

    def blurred(image, blur):
        if blur is None:
            return image
        planes = [
            ndimage.correlate(p.numpy(), kernel(blur).numpy(), mode="mirror") for p in image[0]
        ]
        return torch.from_numpy(np.stack(planes))[None]

    def noisy(image, order, number):
        seed_of_noise = derive_seed(seed, f"degrade noise {number}", index)
        generator = torch.Generator().manual_seed(seed_of_noise)
        add = {"gaussian": add_gaussian_noise, "poisson": add_poisson_noise}[order.noise]
        return add(image, order.strength, order.gray, generator)

    def compressed(image, order):
        return pillow_jpeg(image.clamp(0, 1), torch.tensor([order.quality]))

    height, width = image.shape[-2:]
    first, second = chosen.first, chosen.second
    size = (int(height * first.scale), int(width * first.scale))
    image = noisy(resize(blurred(image, first.blur), size, first.mode), first, 1)
    image = blurred(compressed(image, first), second.blur)
    size = (int(height / factor * second.scale), int(width / factor * second.scale))
    image = noisy(resize(image, size, second.mode), second, 2)
    size = (height // factor, width // factor)
    if chosen.jpeg_last:
        image = compressed(blurred(resize(image, size, chosen.mode), chosen.sinc), second)
    else:
        image = blurred(resize(compressed(image, second), size, chosen.mode), chosen.sinc)
    return image


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("name", ["hard", "mild"])
def test_the_steps_follow_one_another_in_both_orders(name, factor):
    images, settings = crops(8)[..., :60, :48], load_degradation(name)
    lr = degrade(images, factor, name, 5, list(range(8)))
    chosen = [draw(settings, 5, index) for index in range(8)]
    assert {one.jpeg_last for one in chosen} == {True, False}
    for index in range(8):
        steps = by_hand((images[index : index + 1] + 1) / 2, factor, chosen[index], 5, index)
        ours, expected = to_uint8(lr[index]), to_uint8(steps[0] * 2 - 1)
        # scipy's sums may round to another level, which JPEG may spread over a block
        differing = (np.abs(ours.astype(int) - expected) > 1).mean()
        assert differing < 0.02, chosen[index]


def test_settings_without_effect_leave_the_resize_and_the_best_jpeg(tmp_path):
    file = tmp_path / "quiet.yaml"
    file.write_text(QUIET)
    images = crops(6)
    lr = degrade(images, 4, str(file), 0, list(range(6)))
    for index in range(6):
        chosen = draw(load_degradation(str(file)), 0, index)
        small = resize((images[index : index + 1] + 1) / 2, (16, 16), chosen.second.mode)
        # JPEG at quality 100 keeps brightness to about a level, colours at half resolution
        weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        difference = ((lr[index] + 1) / 2 - small[0].clamp(0, 1)) * weights
        assert difference.sum(0).abs().mean() < 2 / 255


def test_hard_is_farther_from_the_photo_than_mild_and_mild_than_bicubic():
    images = crops(24)
    target = degrade(images, 4, "bicubic", 0, list(range(24)))
    errors = [
        (degrade(images, 4, name, 0, list(range(24))) - target).square().mean().item()
        for name in ("bicubic", "mild", "hard")
    ]
    assert errors == sorted(errors)
    assert errors[2] > 1.2 * errors[1] > 0


@pytest.mark.parametrize("name", ["bicubic", "mild", "hard"])
def test_the_result_has_8_bits_and_the_size_that_is_asked_for(name):
    lr = degrade(crops(4)[..., :48], 4, name, 0, [0, 1, 2, 3])
    assert lr.shape == (4, 3, 16, 12)
    assert lr.abs().max() <= 1
    levels = (lr + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(4, 4), (8, 4), (4, 20)])
def test_an_image_smaller_than_a_kernel_is_degraded_too(size):
    images = crops(12)[..., : size[0], : size[1]]
    lr = degrade(images, 4, "hard", 0, list(range(12)))
    assert lr.shape == (12, 3, size[0] // 4, size[1] // 4)
    assert torch.isfinite(lr).all()


# ---- the same, whatever is around it


@pytest.mark.parametrize("name", ["bicubic", "mild", "hard"])
def test_a_sample_is_the_same_alone_and_in_any_batch(name):
    images = crops(8)
    together = degrade(images, 4, name, 3, list(range(8)))
    order = [5, 0, 7, 2]
    assert torch.equal(degrade(images[order], 4, name, 3, order), together[order])
    for index in range(8):
        assert torch.equal(degrade(images[index][None], 4, name, 3, [index])[0], together[index])


def degraded(index: int) -> torch.Tensor:
    torch.set_num_threads(1)
    return degrade(crops(4)[index][None], 4, "hard", 0, [index])


def test_a_sample_is_the_same_in_another_process():
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        elsewhere = torch.cat(list(pool.map(degraded, range(4))))
    assert torch.equal(elsewhere, degrade(crops(4), 4, "hard", 0, list(range(4))))


def test_the_state_of_other_generators_means_nothing():
    images = crops(4)
    torch.manual_seed(1)
    np.random.seed(1)
    before = degrade(images, 4, "hard", 0, [0, 1, 2, 3])
    torch.rand(3)
    state = torch.get_rng_state()
    assert torch.equal(degrade(images, 4, "hard", 0, [0, 1, 2, 3]), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_and_indices_make_different_results():
    image = crops(1)
    found = {
        degrade(image, 4, "hard", seed, [index]).numpy().tobytes()
        for seed in range(3)
        for index in range(3)
    }
    assert len(found) == 9


def test_reduced_precision_around_it_changes_nothing(monkeypatch):
    monkeypatch.setattr("tocsr.data.degradation.second_order.pillow_jpeg", jpeg)  # has products
    images = crops(4)
    expected = degrade(images, 4, "hard", 0, [0, 1, 2, 3])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(degrade(images, 4, "hard", 0, [0, 1, 2, 3]), expected)


def test_jpeg_on_tensors_in_place_of_files_changes_nothing(monkeypatch):
    images = crops(8)
    expected = degrade(images, 4, "hard", 0, list(range(8)))
    monkeypatch.setattr("tocsr.data.degradation.second_order.pillow_jpeg", jpeg)
    assert torch.equal(degrade(images, 4, "hard", 0, list(range(8))), expected)


def test_a_plan_without_data_has_its_shape():
    with FakeTensorMode():
        lr = degrade(torch.empty(16, 3, 64, 64), 4, "hard", 0, list(range(16)))
    assert lr.shape == (16, 3, 16, 16)


def test_no_gradient_goes_through_it():
    images = crops(1).requires_grad_()
    assert not degrade(images, 4, "bicubic", 0, [0]).requires_grad


# ---- what is refused


def test_sides_that_are_no_multiples_are_refused():
    with pytest.raises(ValueError, match="must be multiples of 4, got 64 x 66"):
        degrade(torch.zeros(1, 3, 66, 64), 4, "bicubic", 0, [0])


def test_fewer_indices_than_images_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        degrade(torch.zeros(2, 3, 8, 8), 4, "mild", 0, [0])
