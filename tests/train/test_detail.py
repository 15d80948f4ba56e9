"""The terms that look at how much detail there is, and how it repeats."""

import math

import pytest
import torch

from tocsr.train.detail import comb_error, grid_error, texture_error

NUMBERS = torch.Generator().manual_seed(0)


def test_detail_that_lies_on_the_cells_is_a_grid_and_other_detail_is_none():
    noise = torch.randn(8, 3, 128, 128, generator=NUMBERS)
    assert grid_error(noise) < 0.01
    dots = torch.zeros(128, 128)
    dots[3::8, 5::8] = 1.0
    signs = torch.randn(8, 3, 128, 128, generator=NUMBERS).sign()  # of either sign, on the grid
    assert grid_error(noise + 8 * dots * signs) > 1
    assert grid_error(10 * noise) == pytest.approx(float(grid_error(noise)), rel=1e-4)


def test_a_flat_image_has_no_grid():
    assert grid_error(torch.full((1, 3, 64, 64), 0.5)) < 1.1  # and is finite


def _noise(level, number):
    generator = torch.Generator().manual_seed(number)
    return level * torch.randn(2, 3, 128, 128, generator=generator)


def test_texture_asks_how_much_detail_there_is_and_not_where():
    photo, guess = _noise(0.2, 1), _noise(0.2, 2)
    flat = torch.zeros_like(photo)
    assert texture_error(photo, photo) == 0
    assert texture_error(guess, photo) < 0.2
    # by half the log of energies: e times the detail is an error of 1
    assert float(texture_error(math.e * guess, guess)) == pytest.approx(1.0, abs=0.01)
    assert texture_error(flat, photo) > 3


def test_a_pattern_where_the_photo_is_smooth_is_an_error_of_texture():
    flat = torch.zeros(1, 3, 64, 64)
    weave = 0.05 * (-1.0) ** (torch.arange(64)[:, None] + torch.arange(64)).expand_as(flat)
    assert texture_error(weave, flat) > 1
    assert texture_error(flat + 0.3, flat) == 0  # an even shift has no detail


def _weave(period, signs):
    """Waves of this many pixels, of a sign of its own in each cell of 8 x 8."""
    places = torch.arange(128) * 2 * math.pi / period
    wave = places.cos()[:, None] * places.cos()
    return wave * signs.repeat_interleave(8, -1).repeat_interleave(8, -2)


@pytest.mark.parametrize("period", [2, 4, 8 / 3])
@pytest.mark.parametrize("turning", [False, True])
def test_a_weave_that_repeats_in_each_cell_is_a_comb(period, turning):
    photos, others = _noise(0.1, 1), _noise(0.1, 2)
    signs = torch.ones(2, 3, 16, 16)
    if turning:  # from one cell to the next: the wave's own frequency is missing then
        signs[..., ::2, :] *= -1
    woven = others + 0.3 * _weave(period, signs)
    assert comb_error(woven, photos) > 5 * comb_error(others, photos)


def test_how_much_detail_there_is_does_not_make_a_comb():
    assert comb_error(_noise(0.3, 2), _noise(0.1, 1)) < 0.2
    assert comb_error(_noise(0.1, 1), _noise(0.1, 1)) == 0


def test_flat_images_have_no_comb_and_a_gradient():
    flat = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    error = comb_error(flat, torch.full((1, 3, 64, 64), -0.5))
    error.backward()
    assert error < 1e-6
    assert flat.grad.isfinite().all()
