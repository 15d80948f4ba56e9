import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tocsr.deploy.tiling import (
    Tile,
    mirrored,
    position_noise,
    round_up,
    spans,
    strips,
    tiles,
)


def assemble(*arguments) -> np.ndarray:
    """The whole result of its strips."""
    return np.concatenate(list(strips(*arguments)))


SIDES = st.integers(1, 200)
GEOMETRY = {
    "core": st.integers(1, 90),
    "halo": st.integers(0, 40),
    "multiple": st.sampled_from([1, 4, 16]),
}


@given(size=SIDES, **GEOMETRY)
def test_every_pixel_lies_in_one_core(size, core, halo, multiple):
    count = np.zeros(round_up(size, multiple), int)
    for span in spans(size, core, halo, multiple):
        count[span.core_start : span.core_stop] += 1
    assert (count == 1).all()


@given(size=SIDES, **GEOMETRY)
def test_every_start_and_stop_is_a_multiple(size, core, halo, multiple):
    edges = [edge for span in spans(size, core, halo, multiple) for edge in (span.start, span.stop)]
    assert not any(edge % multiple for edge in edges)


@given(size=SIDES, **GEOMETRY)
def test_a_core_has_its_halo_or_the_border(size, core, halo, multiple):
    padded = round_up(size, multiple)
    for span in spans(size, core, halo, multiple):
        assert span.start == 0 or span.core_start - span.start >= halo
        assert span.stop == padded or span.stop - span.core_stop >= halo


@given(size=SIDES, **GEOMETRY)
def test_no_core_is_larger_than_asked(size, core, halo, multiple):
    sizes = [span.core_stop - span.core_start for span in spans(size, core, halo, multiple)]
    assert max(sizes) <= round_up(core, multiple)


def test_an_image_of_one_core_is_one_tile_without_halo():
    (tile,) = tiles(50, 64, core=64, halo=32, multiple=16)
    assert (tile.rows.size, tile.cols.size) == (64, 64)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70), seed=st.integers(0, 99), **GEOMETRY)
def test_tiles_of_a_known_image_blend_to_that_image(height, width, seed, core, halo, multiple):
    upscale = 2
    shape = [round_up(side, multiple) * upscale for side in (height, width)]
    levels = np.random.default_rng(seed).integers(0, 256, (3, *shape))
    whole = (levels / 127.5 - 1).astype(np.float32)

    def crop(tile: Tile) -> np.ndarray:
        rows, cols = (slice(s.start * upscale, s.stop * upscale) for s in (tile.rows, tile.cols))
        return whole[:, rows, cols]

    parts = tiles(height, width, core, halo, multiple)
    image = assemble(parts, crop, height, width, upscale, np.uint8)
    assert np.array_equal(image, levels.transpose(1, 2, 0)[: height * upscale, : width * upscale])


def test_a_step_between_two_tiles_becomes_a_ramp():
    parts = tiles(1, 64, core=32, halo=16, multiple=16)
    assert len(parts) == 2

    def constant(tile: Tile) -> np.ndarray:
        level = -1 if tile.cols.start == 0 else 1
        return np.full((3, tile.rows.size, tile.cols.size), level, np.float32)

    row = assemble(parts, constant, 1, 64, 1, np.uint8)[0, :, 0].astype(int)
    assert (row[:24] == 0).all()  # half the halo, 8 px, on either side of the cut at 32
    assert (row[40:] == 255).all()
    assert np.abs(np.diff(row)).max() <= 16  # 255 / 16 px


def test_the_outer_half_of_a_halo_counts_nothing():
    def spoilt(tile: Tile) -> np.ndarray:
        values = np.zeros((3, tile.rows.size, tile.cols.size), np.float32)
        for edge, inner in ((tile.cols.start, np.s_[:8]), (tile.cols.stop, np.s_[-8:])):
            if edge not in (0, 96):
                values[:, :, inner] = np.float32(1e6)
        return values

    parts = tiles(16, 96, core=32, halo=16, multiple=16)
    assert (assemble(parts, spoilt, 16, 96, 1, np.uint8) == 128).all()


@given(size=SIDES, more=st.integers(0, 400), start=st.integers(0, 300))
def test_places_beyond_a_side_are_those_of_numpys_reflection(size, more, start):
    padded = np.pad(np.arange(size), (0, more + start), "reflect" if size > 1 else "edge")
    stop = size + more
    start = min(start, stop)
    assert np.array_equal(mirrored(start, stop, size), padded[start:stop])


@given(
    seed=st.integers(0, 2**63),
    top=st.integers(0, 2**20),
    left=st.integers(0, 2**20),
    row=st.integers(0, 6),
    col=st.integers(0, 8),
)
def test_the_noise_of_a_crop_is_the_crop_of_the_noise(seed, top, left, row, col):
    whole = position_noise(seed, top, left, 11, 13, 3)
    crop = position_noise(seed, top + row, left + col, 5, 5, 3)
    assert np.array_equal(crop, whole[:, row : row + 5, col : col + 5])


def test_the_first_channels_do_not_depend_on_their_number():
    assert np.array_equal(position_noise(1, 0, 0, 8, 8, 4), position_noise(1, 0, 0, 8, 8, 9)[:4])


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_noise_is_standard_normal(seed):
    noise = position_noise(seed, 0, 0, 500, 500, 4).astype(np.float64).ravel()
    error = 1 / np.sqrt(noise.size)  # standard error of the mean; bounds are 4 of each
    assert abs(noise.mean()) < 4 * error
    assert abs(noise.var() - 1) < 4 * error * np.sqrt(2)
    assert abs((noise**3).mean()) < 4 * error * np.sqrt(15)
    assert abs((noise**4).mean() - 3) < 4 * error * np.sqrt(96)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbours_in_noise_are_uncorrelated(axis):
    noise = position_noise(3, 1000, 77, 400, 400, 4).astype(np.float64)
    one, other = np.split(np.moveaxis(noise, axis, 0), 2)
    count = one.size
    assert abs((one * other).mean()) < 4 / np.sqrt(count)
    shifted = np.moveaxis(noise, axis, 0)
    pairs = shifted[1:] * shifted[:-1]
    assert abs(pairs.mean()) < 4 / np.sqrt(pairs.size)


def test_seeds_give_uncorrelated_noise():
    one, other = (position_noise(seed, 0, 0, 400, 400, 4).astype(np.float64) for seed in (0, 1))
    assert abs((one * other).mean()) < 4 / np.sqrt(one.size)
