import numpy as np
import pytest
import torch
from PIL import Image

from tocsr.data.degrade import degrade
from tocsr.data.images import to_tensor, to_uint8


def photo() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("factor", [2, 4])
def test_bicubic_is_pillows_to_one_level(factor):
    pixels = photo()
    ours = to_uint8(degrade(to_tensor(pixels)[None], factor, "bicubic")[0])
    size = (128 // factor, 96 // factor)
    pillow = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    # Pillow rounds to 8 bits after each of its two passes
    assert np.abs(ours.astype(int) - pillow).max() <= 1


def test_the_result_has_8_bits():
    lr = degrade(to_tensor(photo())[None], 4, "bicubic")
    levels = (lr + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


def test_an_unknown_degradation_is_refused():
    with pytest.raises(ValueError, match="must be bicubic, got blur"):
        degrade(torch.zeros(1, 3, 8, 8), 4, "blur")
