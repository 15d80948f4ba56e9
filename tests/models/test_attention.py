from functools import partial

import pytest
import torch

from tocsr.models.attention import SelfAttention, from_windows, in_windows, to_windows
from tocsr.models.surrogates import is_local

FACTS = {"norm_num_groups": 2, "norm_eps": 1e-5, "attention_head_dim": 2}
CHANNELS = 4
# attention over other numbers of tokens may sum in another order
close = partial(torch.testing.assert_close, rtol=0, atol=1e-5)


def attention(window: int = 0, norm: str = "pixel") -> SelfAttention:
    torch.manual_seed(0)
    part = SelfAttention(CHANNELS, FACTS, norm, window).eval().requires_grad_(False)
    for parameter in part.parameters():  # the output's weights start at zero
        torch.nn.init.normal_(parameter)
    return part


def image(height: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(
        batch, CHANNELS, height, width, generator=torch.Generator().manual_seed(height)
    )


def test_an_image_cut_into_windows_and_put_together_is_the_same():
    x = image(6, 8)
    tokens = to_windows(x, 3, 4)
    assert tokens.shape == (2 * 4, 12, CHANNELS)
    assert torch.equal(tokens[1], x[0, :, :3, 4:].flatten(1).T)  # row by row
    assert torch.equal(from_windows(tokens, 3, 4, x.shape), x)


@pytest.mark.parametrize("window", [8, 9, 100])
def test_one_window_that_covers_the_image_is_attention_over_the_image(window):
    x = image(8, 6)
    close(attention(window)(x, None), attention()(x, None))


@pytest.mark.parametrize("size", [(8, 8), (6, 10), (5, 4), (3, 9)])
def test_each_window_is_an_image_of_its_own(size):
    x = image(*size)
    whole, inside = attention(4)(x, None), attention()
    for top in range(0, size[0], 4):
        for left in range(0, size[1], 4):
            part = (..., slice(top, top + 4), slice(left, left + 4))  # cut off at the border
            close(whole[part], inside(x[part], None))


def test_a_window_sees_itself_and_nothing_else():
    x = image(8, 8)
    other = x.clone()
    other[:, 0, 5, 2] += 1
    changed = (attention(4)(x, None) != attention(4)(other, None)).any(dim=1)[0]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[4:, :4] = True
    assert torch.equal(changed, expected)


def test_what_lies_beyond_the_border_is_masked_for_every_image_of_a_batch():
    x = image(5, 6, batch=3)
    asked = []

    def attend(tokens: torch.Tensor, inside: torch.Tensor | None) -> torch.Tensor:
        asked.append(inside)
        return tokens

    assert torch.equal(in_windows(attend, x, 4), x)
    (inside,) = asked
    assert inside.shape == (3 * 4, 1, 16)
    assert inside.sum() == 3 * 5 * 6


@pytest.mark.parametrize(
    ("window", "norm", "local"), [(4, "pixel", True), (4, "group", False), (0, "pixel", False)]
)
def test_attention_is_local_in_windows_with_a_norm_per_pixel(window, norm, local):
    assert is_local(attention(window, norm)) == local
