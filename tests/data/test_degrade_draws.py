"""What is drawn for a sample: within the ranges, in the published shares, the same for ever."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest

from tocsr.data.degradation.draws import Blur, Draw, OrderDraw, draw
from tocsr.data.degradation.settings import load_degradation

NUM = 4000


@pytest.fixture(scope="module", params=["hard", "mild"])
def drawn(request):
    settings = load_degradation(request.param)
    return settings, [draw(settings, 0, index) for index in range(NUM)]


def check_shares(found: list[object], expected: dict[object, float]) -> None:
    """Each share within 4 standard errors of its probability."""
    counts = Counter(found)
    assert counts.keys() <= expected.keys()
    for key, share in expected.items():
        error = 4 * (share * (1 - share) / len(found)) ** 0.5
        assert abs(counts[key] / len(found) - share) <= error + 1e-9, key


def check_uniform(found: list[float], low: float, high: float) -> None:
    """Within the range, near both its ends, and of its mean to 4 standard errors."""
    values = (np.array(found) - low) / (high - low)
    assert values.min() >= 0
    assert values.max() <= 1
    assert values.min() < 20 / len(values)
    assert values.max() > 1 - 20 / len(values)
    assert abs(values.mean() - 0.5) < 4 / (12 * len(values)) ** 0.5


@pytest.mark.parametrize("which", ["first", "second"])
def test_an_order_is_drawn_in_the_shares_of_its_settings(drawn, which):
    settings, draws = drawn
    order, found = getattr(settings, which), [getattr(d, which) for d in draws]
    check_shares(
        [o.blur is not None for o in found], {True: order.blur_prob, False: 1 - order.blur_prob}
    )
    blurs = [o.blur for o in found if o.blur]
    rest = 1 - order.sinc_prob
    families = {family: rest * share for family, share in order.kernel_prob.items()}
    check_shares([blur.family for blur in blurs], families | {"sinc": order.sinc_prob})
    sign = [(o.scale > 1) - (o.scale < 1) for o in found]
    up, down, keep = order.resize_prob.values()
    check_shares(sign, {1: up, -1: down, 0: keep})
    check_shares([o.mode for o in found], dict.fromkeys(("area", "bilinear", "bicubic"), 1 / 3))
    gaussian, gray = order.gaussian_noise_prob, order.gray_noise_prob
    check_shares([o.noise for o in found], {"gaussian": gaussian, "poisson": 1 - gaussian})
    check_shares([o.gray for o in found], {True: gray, False: 1 - gray})


@pytest.mark.parametrize("which", ["first", "second"])
def test_an_order_is_uniform_over_its_ranges(drawn, which):
    settings, draws = drawn
    order, found = getattr(settings, which), [getattr(d, which) for d in draws]
    check_uniform([o.scale for o in found if o.scale > 1], 1, order.resize_range[1])
    check_uniform([o.scale for o in found if o.scale < 1], order.resize_range[0], 1)
    check_uniform([o.strength for o in found if o.noise == "gaussian"], *order.noise_range)
    check_uniform([o.strength for o in found if o.noise == "poisson"], *order.poisson_scale_range)
    low, high = order.jpeg_range
    check_uniform([o.quality for o in found], low, high)
    assert {type(o.quality) for o in found} == {int}
    bells = [o.blur for o in found if o.blur and o.blur.family != "sinc"]
    check_uniform([blur.sigma[0] for blur in bells], *order.blur_sigma)
    turned = [blur for blur in bells if blur.family.endswith("aniso")]
    check_uniform([blur.sigma[1] for blur in turned], *order.blur_sigma)
    check_uniform([blur.rotation for blur in turned], -math.pi, math.pi)
    assert all(b.sigma[0] == b.sigma[1] for b in bells if not b.family.endswith("aniso"))


def test_beta_is_below_1_half_of_the_time_where_its_range_is(drawn):
    settings, draws = drawn
    low, high = settings.first.betag_range
    betas = [d.first.blur.beta for d in draws if d.first.blur.family.startswith("generalized")]
    check_shares([beta < 1 for beta in betas], {True: 0.5, False: 0.5})
    check_uniform([beta for beta in betas if beta < 1], low, 1)
    check_uniform([beta for beta in betas if beta > 1], 1, high)
    # a plateau's range begins at 1, so half of them are 1 itself
    betas = [d.first.blur.beta for d in draws if d.first.blur.family.startswith("plateau")]
    check_shares([beta == 1 for beta in betas], {True: 0.5, False: 0.5})


def test_the_sides_of_kernels_are_odd_and_a_filters_cutoff_goes_with_them(drawn):
    _, draws = drawn
    blurs = [d.first.blur for d in draws]
    check_shares([b.size for b in blurs], dict.fromkeys(range(7, 22, 2), 1 / 8))
    for sizes, lowest in (((7, 11), math.pi / 3), ((13, 21), math.pi / 5)):
        found = [b.cutoff for b in blurs if b.family == "sinc" and sizes[0] <= b.size <= sizes[1]]
        check_uniform(found, lowest, math.pi)


def test_the_last_step_is_drawn_in_its_shares(drawn):
    settings, draws = drawn
    check_shares([d.jpeg_last for d in draws], {True: 0.5, False: 0.5})
    final, plain = settings.final_sinc_prob, settings.no_degradation_prob
    check_shares([d.sinc is not None for d in draws], {True: final, False: 1 - final})
    check_uniform([d.sinc.cutoff for d in draws if d.sinc], math.pi / 3, math.pi)
    check_shares([d.plain for d in draws], {True: plain, False: 1 - plain})
    check_shares([d.mode for d in draws], dict.fromkeys(("area", "bilinear", "bicubic"), 1 / 3))


def test_a_lens_is_drawn_in_its_share_and_range():
    settings = load_degradation("photos")
    draws = [draw(settings, 0, index) for index in range(NUM)]
    share = settings.lens_prob
    check_shares([d.lens is not None for d in draws], {True: share, False: 1 - share})
    lenses = [d.lens for d in draws if d.lens]
    check_uniform([lens.sigma[0] for lens in lenses], *settings.lens_sigma)
    check_uniform([lens.sigma[1] / lens.sigma[0] for lens in lenses], 0.7, 1)
    check_uniform([lens.rotation for lens in lenses], -math.pi, math.pi)


def test_a_setting_that_changes_leaves_the_other_draws():
    hard = load_degradation("hard")
    quiet = dataclasses.replace(
        hard, first=dataclasses.replace(hard.first, gaussian_noise_prob=0.0, blur_prob=0.0)
    )
    for index in range(50):
        before, after = draw(hard, 0, index), draw(quiet, 0, index)
        assert (after.first.blur, after.first.noise) == (None, "poisson")
        assert after.first.quality == before.first.quality
        assert (after.second, after.sinc, after.mode) == (before.second, before.sinc, before.mode)


def test_seeds_and_indices_make_different_draws():
    hard = load_degradation("hard")
    assert len({repr(draw(hard, seed, index)) for seed in range(5) for index in range(5)}) == 25


def test_draws_are_those_of_the_first_version():
    first = OrderDraw(
        Blur("iso", 15, (2.084566327959472,) * 2),
        *(0.6832978343771288, "bicubic", "gaussian", 2.136760451065575, True, 93),
    )
    second = OrderDraw(None, 1.0, "bicubic", "gaussian", 20.399318509052335, False, 36)
    expected = Draw(False, None, first, second, None, "area", True)
    assert draw(load_degradation("hard"), 0, 7) == expected
