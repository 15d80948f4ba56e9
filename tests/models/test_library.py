import math
import random

import pytest
import torch

from tocsr.models.architectures import leanest
from tocsr.models.compact import CompactUNet, rebuilt
from tocsr.models.cost import unet_cost
from tocsr.models.folders import base_unet
from tocsr.models.library import LibraryCosts, library_costs, surrogate_library
from tocsr.models.stages import unet_stages
from tocsr.models.variants import LIBRARY, TEACHER, Variant

ROWS_BESIDES_THE_TEACHER = {"E1": 4, "E2": 4, "E3": 4, "B": 4, "D3": 8, "D2": 8, "D1": 8}


def teacher(preset: str) -> CompactUNet:
    with torch.device("meta"):
        return base_unet(preset, latent_channels=16)


@pytest.fixture(scope="module")
def sd() -> CompactUNet:
    return teacher("paper")


@pytest.fixture(scope="module")
def sd_costs(sd) -> LibraryCosts:
    return library_costs(sd, surrogate_library(sd), 512)


@pytest.fixture(scope="module")
def tiny() -> CompactUNet:
    return teacher("tiny")


@pytest.fixture(scope="module")
def tiny_costs(tiny) -> LibraryCosts:
    return library_costs(tiny, surrogate_library(tiny), 256)


def test_sd_has_more_than_a_hundred_thousand_architectures(sd):
    library = surrogate_library(sd)
    assert math.prod(map(len, library.values())) > 100_000
    for stage, least in ROWS_BESIDES_THE_TEACHER.items():
        assert library[stage][0] == TEACHER
        assert len(library[stage]) - 1 >= least


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_a_local_library_has_as_many_rows_for_a_stage(preset):
    library = surrogate_library(teacher(preset), local_only=True)
    for stage, least in ROWS_BESIDES_THE_TEACHER.items():
        assert len(set(library[stage]) - {TEACHER}) >= least


def test_the_papers_size_is_within_the_library(sd_costs):
    found = leanest(sd_costs, 130_000_000)
    assert found.cost.params <= 130_000_000
    assert found.cost.macs <= 143e9


def test_every_field_of_a_variant_is_used_by_some_row_of_sd(sd):
    library = surrogate_library(sd)
    used = {
        (field, getattr(row, field))
        for stage in sd.stage_table
        for row in LIBRARY[stage.kind]
        for field in Variant.__dataclass_fields__
        if row.name in library[stage.name]
    }
    assert {
        ("inner", 2),
        ("inner", 4),
        ("reach", 16),
        ("norm", "pixel"),
        ("conv", "separable"),
        ("conv", "bottleneck"),
        ("attention", "teacher"),
        ("sampler", "pointwise"),
    } <= used


def random_choice(library: dict[str, list[str]], seed: int) -> dict[str, str]:
    rng = random.Random(seed)
    return {stage: rng.choice(names) for stage, names in library.items()}


@pytest.mark.parametrize("seed", range(6))
def test_the_cost_of_a_candidate_is_the_sum_over_its_stages(seed, tiny, tiny_costs):
    choice = random_choice(surrogate_library(tiny), seed)
    with torch.device("meta"):
        assembled = unet_cost(rebuilt(tiny, variants=choice), 256)
    summed = tiny_costs.of(choice)
    assert (summed.params, summed.macs) == (assembled.params, assembled.macs)


def test_a_candidate_of_sd_costs_the_sum_over_its_stages(sd, sd_costs):
    choice = random_choice(surrogate_library(sd), 0)
    with torch.device("meta"):
        assembled = unet_cost(rebuilt(sd, variants=choice), 512)
    assert (sd_costs.of(choice).params, sd_costs.of(choice).macs) == (
        assembled.params,
        assembled.macs,
    )


def test_the_rest_costs_what_the_ends_and_the_time_embedding_do(sd_costs):
    # by hand: 16 -> 320 -> 16, 3 x 3, on 64 x 64; two linear layers; a norm
    assert sd_costs.rest.macs == 64 * 64 * 9 * 2 * 16 * 320 + 320 * 1280 + 1280 * 1280
    ends = 9 * 16 * 320 + 320 + 9 * 320 * 16 + 16
    time = 321 * 1280 + 1281 * 1280
    assert sd_costs.rest.params == ends + time + 2 * 320


def test_windows_cost_less_than_attention_over_the_image(sd_costs):
    rows = sd_costs.stages["E1"]
    # of 64 x 64 pixels each looks at 16 x 16 instead, in two products of 320 channels
    saved = 2 * 64**2 * (64**2 - 16**2) * 320
    assert rows["r1-full-self-full"].macs - rows["r1-full-self16-full"].macs == saved


def test_rows_that_work_out_alike_at_a_stage_count_once(tiny):
    library = surrogate_library(tiny)
    assert "r1-full-full-pixel" not in library["E1"]  # the preset's norm is per pixel already
    assert "r1-full-separable" not in library["D1"]  # the last stage does not resample
    assert "r1-full-separable" in library["D2"]


def test_a_row_is_itself_where_every_field_counts():
    encoder, *_, last = unet_stages({"block_out_channels": [8, 8], "layers_per_block": 2})
    row = Variant(num_blocks=2, sampler="separable", norm="pixel")
    assert row.at(encoder, "group") == row
    assert row.at(encoder, "pixel") == Variant(num_blocks=2, sampler="separable")
    assert row.at(last, "group") == Variant(num_blocks=2, norm="pixel")
    assert Variant(num_blocks=5).at(last, "group") == Variant(num_blocks=3)
    nothing = Variant(num_blocks=0, conv="separable", inner=4, sampler="pointwise")
    assert nothing.at(encoder, "group") == Variant(num_blocks=0, sampler="pointwise")


def test_a_reach_is_for_self_attention_alone():
    with pytest.raises(ValueError, match="got 16 with attention teacher"):
        Variant(num_blocks=1, attention="teacher", reach=16)


def test_a_name_says_every_field():
    row = Variant(
        num_blocks=1, inner=2, attention="self", reach=8, sampler="pointwise", norm="pixel"
    )
    assert row.name == "r1-full-inner2-self8-pointwise-pixel"


def test_names_of_trained_surrogates_stay():
    names = {kind: {row.name for row in rows} for kind, rows in LIBRARY.items()}
    assert names["down"] >= {
        "r2-full-full",
        "r1-full-teacher-full",
        "r1-full-self-full",
        "r1-full-full",
        "r1-bottleneck-pointwise",
        "r1-separable-separable",
        "r0-full-pointwise",
    }
    assert names["bottleneck"] >= {
        "r2-full-full",
        "r1-full-full",
        "r1-bottleneck-separable",
        "r0-full-pointwise",
    }
    assert names["up"] >= {
        "r3-full-full",
        "r2-full-full",
        "r1-full-teacher-full",
        "r1-full-full",
        "r1-full-separable",
        "r2-bottleneck-separable",
        "r1-separable-pointwise",
        "r0-full-pointwise",
    }
