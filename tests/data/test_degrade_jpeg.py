"""The batched JPEG is Pillow's, to the bit: whole numbers on both sides, so no tolerance."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import fft

from tocsr.config import Source
from tocsr.data.degradation.jpeg import _DCT, jpeg, pillow_jpeg, quantization_tables
from tocsr.data.sources import list_photos, read_photo


def photo(height: int, width: int) -> torch.Tensor:
    """The corner of a photo, (1, 3, height, width) in [0, 1]."""
    pixels = read_photo(list_photos(Source(path="builtin"), 1.0)[1])
    return torch.tensor(pixels[:height, :width]).permute(2, 0, 1)[None] / 255


def in_a_file(image: torch.Tensor, quality: int, **options: object) -> Image.Image:
    pixels = (image[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2, **options)
    return Image.open(file)


def test_the_tables_of_every_quality_are_pillows():
    for quality, ours in enumerate(quantization_tables(torch.arange(1, 101)), start=1):
        assert ours.tolist() == list(in_a_file(photo(16, 16), quality).quantization.values())


@pytest.mark.parametrize(
    "size", [(64, 80), (61, 43), (17, 16), (16, 18), (9, 7), (3, 5), (40, 4), (2, 3), (1, 1)]
)
@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 75, 95, 100])
def test_a_photo_comes_back_as_from_pillows_file(size, quality):
    image = photo(*size)
    expected = torch.from_numpy(np.array(in_a_file(image, quality))).permute(2, 0, 1)[None]
    assert torch.equal((jpeg(image, torch.tensor([quality])) * 255).round(), expected.float())


@pytest.mark.parametrize("quality", [1, 5, 30, 77, 100])
@pytest.mark.parametrize("kind", ["noise", "black and white", "checks", "an edge of colour"])
def test_extremes_come_back_as_from_pillows_file(kind, quality):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, 48, 56, generator=generator)
    checks = (torch.arange(48)[:, None] + torch.arange(56)) % 2
    edge = torch.zeros(1, 3, 48, 56)
    edge[:, 0, :, 27:] = edge[:, 2, 21:] = 1
    image = {
        "noise": noise,
        "black and white": (noise > 0.5).float(),
        "checks": checks.float().expand(1, 3, -1, -1),
        "an edge of colour": edge,
    }[kind]
    expected = torch.from_numpy(np.array(in_a_file(image, quality))).permute(2, 0, 1)[None]
    assert torch.equal((jpeg(image, torch.tensor([quality])) * 255).round(), expected.float())


def test_each_image_of_a_batch_has_its_own_quality():
    images = torch.cat([photo(40, 56), photo(40, 56).flip(3), 1 - photo(40, 56)])
    qualities = [20, 60, 95]
    alone = [jpeg(i[None], torch.tensor([q])) for i, q in zip(images, qualities, strict=True)]
    together = jpeg(images, torch.tensor(qualities))
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, pillow_jpeg(images, torch.tensor(qualities)))


def test_the_transform_is_scipys_scaled_to_whole_numbers():
    exact = fft.dct(np.eye(8), axis=0, norm="ortho") * 8**0.5 * 8192
    # libjpeg's sums of rounded constants are off by up to two units
    assert np.abs(np.array(_DCT) - exact).max() < 2


def test_the_result_has_8_bits():
    levels = jpeg(torch.rand(1, 3, 20, 20), torch.tensor([50])) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
