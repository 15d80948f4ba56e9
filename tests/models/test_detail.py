"""What the measure of repeated detail sees, and what it does not."""

import pytest
import torch

from tocsr.models.detail import detail, repetition

NOISE = torch.randn(4, 3, 128, 128, generator=torch.Generator().manual_seed(0))


def lattice(period):
    """One random pattern in every cell of that side."""
    return NOISE[:1, :, :period, :period].tile(1, 1, *[128 // period] * 2)


def test_detail_of_a_plane_is_nothing():
    rows = torch.linspace(-1, 1, 64)[:, None].expand(1, 3, 64, 64)
    assert detail(rows)[..., 1:-1, 1:-1].abs().max() < 1e-6


def test_independent_detail_repeats_a_sixteenth_of_its_energy_and_of_its_magnitudes():
    magnitudes = 1 - 2 / torch.pi  # variance of the magnitude of a normal number
    assert repetition(NOISE) == pytest.approx((1 + magnitudes) / 16, rel=0.05)


@pytest.mark.parametrize("period", [2, 4, 8, 16])
def test_a_pattern_in_every_cell_repeats_whatever_its_strength(period):
    assert repetition(0.01 * lattice(period)) > 0.7


def test_a_faint_pattern_in_a_flat_half_counts_beside_strong_detail_in_the_other():
    half = torch.arange(128) < 64
    mixed = torch.where(half, 0.02 * lattice(8), NOISE)
    assert repetition(mixed) > repetition(NOISE) + 0.2


def test_dots_on_the_grid_count_though_their_signs_are_random():
    signs = NOISE.sign()
    dots = torch.zeros(128, 128)
    dots[3::8, 5::8] = 1.0
    assert repetition(dots * signs) > repetition(NOISE) + 0.3


def test_a_flat_image_repeats_nothing():
    assert repetition(torch.full((1, 3, 64, 64), 0.5)) == 0
