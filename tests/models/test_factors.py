import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from tocsr.models.factors import NEIGHBOURS, low_rank, separated


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).double()


def test_a_separable_convolution_is_found_again():
    depthwise, pointwise = randn(5, 3, 3), randn(7, 5)
    weight = torch.einsum("iyx,oi->oiyx", depthwise, pointwise)
    kernel, matrix = separated(weight)
    torch.testing.assert_close(torch.einsum("iyx,oi->oiyx", kernel[:, 0], matrix), weight)
    torch.testing.assert_close(kernel.flatten(1).norm(dim=1), torch.ones(5).double())


def test_a_convolution_of_low_rank_is_found_again():
    first, middle, last = randn(2, 6), randn(2, 2, 3, 3), randn(5, 2)
    weight = torch.einsum("or,rsyx,si->oiyx", last, middle, first)
    given = low_rank(weight, 2)
    assert [tuple(part.shape) for part in given] == [(2, 6), (2, 2, 3, 3), (5, 2)]
    torch.testing.assert_close(
        torch.einsum("or,rsyx,si->oiyx", given[2], given[1], given[0]), weight
    )


def test_more_rank_than_channels_is_not_used():
    first, middle, last = low_rank(randn(5, 3, 3, 3), 4)
    assert [tuple(part.shape) for part in (first, middle, last)] == [(3, 3), (4, 3, 3, 3), (5, 4)]


def alike_pixels(batch: int, channels: int, side: int) -> torch.Tensor:
    """Features whose pixels at distance d along an axis correlate by NEIGHBOURS to the power d."""
    place = torch.arange(side)
    root = torch.linalg.cholesky(NEIGHBOURS ** (place[:, None] - place).abs().double())
    return root @ randn(batch, channels, side, side) @ root.T


def separable_output(x: torch.Tensor, kernel: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return F.conv2d(F.conv2d(x, kernel, groups=len(kernel)), matrix[:, :, None, None])


def test_the_separable_one_is_nearest_where_neighbours_are_alike():
    weight, x = randn(6, 3, 3, 3), alike_pixels(2000, 3, 4)
    wanted = F.conv2d(x, weight)
    kernel, matrix = separated(weight)
    error = (separable_output(x, kernel, matrix) - wanted).square().mean()
    others = [separated_by_weights(weight)]
    others += [(kernel + 0.05 * randn(3, 1, 3, 3).roll(s, 0), matrix) for s in range(3)]
    others += [(kernel, matrix + 0.05 * randn(6, 3).roll(s, 0)) for s in range(3)]
    for other in others:
        assert (separable_output(x, *other) - wanted).square().mean() > error


def separated_by_weights(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest one in the weights alone."""
    u, s, vh = torch.linalg.svd(weight.flatten(2).transpose(0, 1), full_matrices=False)
    return vh[:, :1].view(-1, 1, 3, 3), (u[:, :, 0] * s[:, :1]).T


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_more_rank_is_never_farther(rank):
    weight = randn(4, 4, 3, 3)

    def error(rank: int) -> torch.Tensor:
        first, middle, last = low_rank(weight, rank)
        given = torch.einsum("or,rsyx,si->oiyx", last, middle, first)
        x = alike_pixels(500, 4, 4)
        return F.conv2d(x, given - weight).square().mean()

    assert error(rank + 1) < error(rank)
