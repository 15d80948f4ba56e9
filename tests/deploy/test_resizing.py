from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsr.deploy.resizing import (
    enlarged,
    pass_sizes,
    resized,
    result_size,
    without_hidden_colors,
)
from tocsr.errors import TocsrError


def repeated(image: np.ndarray, which: str) -> np.ndarray:
    """A network of factor 4 that repeats pixels."""
    del which
    return image.repeat(4, 0).repeat(4, 1)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"upscale": 4}, (120, 200)),
        ({"upscale": 1.5}, (45, 75)),
        ({"upscale": 2.25}, (68, 112)),  # 67.5 and 112.5, rounded to even
        ({"upscale": 4, "max_width": 100}, (60, 100)),
        ({"upscale": 4, "max_height": 100}, (100, 167)),
        ({"upscale": 4, "max_width": 100, "max_height": 100}, (60, 100)),
        ({"upscale": 4, "max_width": 400, "max_height": 60}, (60, 100)),
    ],
)
def test_the_size_of_a_result_is_what_was_asked_for(options, size):
    assert result_size(30, 50, **options) == size


@pytest.mark.parametrize(("side", "factor"), [(49, "0.98"), (401, "8.02")])
def test_a_width_outside_the_range_of_factors_is_refused(side, factor):
    with pytest.raises(TocsrError, match=f"factor of 1 to 8, for 50 x 30 .* ask for {factor}"):
        result_size(30, 50, 4, max_width=side)


@pytest.mark.parametrize(
    ("target", "upscale", "sizes"),
    [
        ((120, 200), 4, [(30, 50)]),
        ((30, 50), 4, [(30, 50)]),  # factor 1 is one pass too
        ((240, 400), 4, [(30, 50), (60, 100)]),  # x8 is x4, down to x2, x4
        ((240, 400), 2, [(30, 50), (60, 100), (120, 200)]),
        ((121, 200), 4, [(30, 50), (31, 50)]),
        ((240, 400), 1, [(30, 50)]),
    ],
)
def test_the_passes_of_the_network_start_from_these_sizes(target, upscale, sizes):
    assert pass_sizes((30, 50), target, upscale) == sizes


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    factor=st.floats(1, 8),
    upscale=st.sampled_from([2, 3, 4]),
)
def test_no_pass_is_asked_for_more_than_it_can_give(height, width, factor, upscale):
    target = result_size(height, width, factor)
    sizes = [*pass_sizes((height, width), target, upscale), target]
    for (high, wide), (next_high, next_wide) in pairwise(sizes):
        assert next_high <= upscale * high
        assert next_wide <= upscale * wide


@pytest.mark.parametrize("factor", [1, 1.3, 4, 5.5, 8])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_flat_image_stays_flat_at_every_factor(factor, dtype):
    image = np.full((6, 5, 3), (10, 200, 90), dtype)
    target = result_size(6, 5, factor)
    result = enlarged(image, target, 4, repeated)
    assert (result.shape, result.dtype) == ((*target, 3), dtype)
    assert (result == (10, 200, 90)).all()


def test_every_pass_says_which_it_is():
    said = []

    def network(image: np.ndarray, which: str) -> np.ndarray:
        said.append(which)
        return repeated(image, which)

    enlarged(np.zeros((4, 4, 3), np.uint8), (32, 32), 4, network)
    enlarged(np.zeros((4, 4, 3), np.uint8), (16, 16), 4, network)
    assert said == [" (pass 1 of 2)", " (pass 2 of 2)", ""]


def test_what_is_made_smaller_is_averaged():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    result = resized(checks.astype(np.uint8), (16, 16))
    assert np.abs(result[2:-2, 2:-2].astype(int) - 128).max() <= 1  # 127.5 is between two levels


def test_sixteen_bits_are_resampled_as_finely():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, 0)
    assert len(np.unique(resized(ramp, (8, 400)))) > 300  # 8 bits have 256 levels


def test_sixteen_bits_do_not_wrap_at_a_sharp_edge():
    step = np.where(np.arange(32) < 16, 0, 65535).astype(np.uint16)[None].repeat(8, 0)
    row = resized(step, (8, 96))[4]
    assert row[:40].max() < 9000  # ringing that is cut off at 0 and not wrapped to 65535
    assert row[56:].min() > 56000


def test_hidden_pixels_take_the_colour_of_visible_ones_nearby():
    rgb = np.zeros((9, 11, 3), np.uint8)
    rgb[3:6, 4:7] = (200, 100, 50)
    alpha = np.zeros((9, 11), np.uint8)
    alpha[3:6, 4:7] = 255
    assert (without_hidden_colors(rgb, alpha) == (200, 100, 50)).all()


def test_visible_pixels_keep_their_colour():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)
    alpha = rng.integers(0, 2, (20, 31), dtype=np.uint8)
    assert np.array_equal(without_hidden_colors(rgb, alpha)[alpha > 0], rgb[alpha > 0])


@pytest.mark.parametrize("level", [0, 255])
def test_a_picture_all_hidden_or_all_visible_is_left_alone(level):
    rgb = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(without_hidden_colors(rgb, np.full((4, 5), level, np.uint8)), rgb)
