import json
import math
import shutil

import pytest
from micro import micro_config
from PIL import Image
from safetensors.torch import load_file, save_file

from tocsr.errors import TocsrError
from tocsr.models.cost import model_params, unet_cost
from tocsr.models.folders import load_unet
from tocsr.runs import read_result
from tocsr.search import select
from tocsr.search.objectives import OBJECTIVES
from tocsr.search.remeasure import gap_of_saved, remeasured_gap
from tocsr.search.select import explanation, nothing_within, pick, rounded_up

PARAMS = OBJECTIVES["params"]
WINNERS = [
    {"tolerance": 0.001, "params": 173_000, "gap": 0.0009},
    {"tolerance": 0.005, "params": 146_000, "gap": 0.0048},
    {"tolerance": 0.007, "params": 120_000, "gap": 0.0066},
]


@pytest.mark.parametrize(
    ("rule", "budget", "params"),
    [
        ("under", 150_000, 146_000),
        ("under", 172_999, 146_000),
        ("under", 173_000, 173_000),
        ("nearest", 165_000, 173_000),
        ("nearest", 125_000, 120_000),
        ("fewest", 1_000_000, 120_000),
    ],
)
def test_each_rule_picks_what_it_says(rule, budget, params):
    assert pick(WINNERS, PARAMS, budget, rule)["params"] == params


@pytest.mark.parametrize("rule", ["under", "nearest", "fewest"])
def test_of_equal_costs_the_smaller_gap_is_picked(rule):
    worse = {**WINNERS[2], "gap": 0.9}
    assert pick([worse, WINNERS[2], worse], PARAMS, 130_000, rule)["gap"] == 0.0066


def test_the_budget_is_in_the_objectives_unit():
    winners = [{"latency_ms": 3.5, "gap": 0.1}, {"latency_ms": 2.5, "gap": 0.2}]
    assert pick(winners, OBJECTIVES["latency"], 3.0, "under")["latency_ms"] == 2.5


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (
            "under",
            "146,000 parameters: of the winners the nearest to the budget of 150,000 parameters "
            "and not above it; tolerance 0.005, gap 0.0048",
        ),
        (
            "nearest",
            "146,000 parameters: of the winners the nearest to the budget of 150,000 parameters; "
            "tolerance 0.005, gap 0.0048",
        ),
        (
            "fewest",
            "146,000 parameters: the smallest of the winners, whatever the budget; "
            "tolerance 0.005, gap 0.0048",
        ),
    ],
)
def test_the_choice_is_explained_in_one_sentence(rule, sentence):
    assert explanation(WINNERS[1], PARAMS, 150_000, rule) == sentence


def records(*rows):
    return [{"params": p, "gap": gap, "num_samples": num} for p, gap, num in rows]


def test_when_nothing_is_feasible_the_tolerance_to_loosen_is_named():
    seen = records((90_000, 0.0234567, 8), (80_000, 0.05, 8), (120_000, 0.0066, 8))
    error = nothing_within(WINNERS, seen, PARAMS, 100_000, [0.001, 0.007])
    assert str(error) == (
        "no winner of the search has at most 100,000 parameters, the smallest has 120,000 "
        "parameters; raise budget, or loosen the largest tolerance of the search from 0.007 to "
        "0.0235, the least gap seen within the budget"
    )


def test_a_gap_on_a_part_of_the_samples_is_called_about():
    seen = records((90_000, 0.023, 4), (120_000, 0.0066, 8))
    error = nothing_within(WINNERS, seen, PARAMS, 100_000, [0.007])
    assert "from 0.007 to about 0.023," in error.hint


def test_a_budget_below_everything_evaluated_says_what_the_least_is():
    seen = records((90_000, 0.02, 8), (120_000, 0.0066, 8))
    error = nothing_within(WINNERS, seen, PARAMS, 1000, [0.007])
    assert error.hint == "raise budget: the least evaluated at all has 90,000 parameters"


@pytest.mark.parametrize("value", [0.0234567, 0.0234, 1.0, 9.9999, 9.99, 1e-9, 123456.0, 0.1])
def test_rounding_up_gives_a_number_of_three_digits_that_is_not_below(value):
    rounded = rounded_up(value)
    assert rounded == float(f"{rounded:.3g}")
    assert value <= rounded <= value * 1.011


def test_the_selected_network_has_the_cost_and_the_gap_of_its_winner(finished_runs):
    selected = read_result(finished_runs / "select")
    unet = load_unet(finished_runs / "select" / "unet")
    assert selected["candidate"] == unet.variants
    assert selected["params"] == model_params(unet)
    assert selected["macs_g"] == unet_cost(unet, 512).macs_g
    # the same operations on the same machine; another number of threads might change last bits
    assert selected["remeasured_gap"] == pytest.approx(selected["gap"], rel=1e-5)
    assert selected["remeasured_gap"] <= selected["tolerance"]
    assert selected["explanation"].startswith(f"{selected['params']:,} parameters: ")


def test_the_ledger_has_the_cost_that_the_network_has(finished_runs):
    lines = (finished_runs / "search" / "ledger.jsonl").read_text().splitlines()
    selected = read_result(finished_runs / "select")
    (record,) = [r for r in map(json.loads, lines) if r["candidate"] == selected["candidate"]]
    assert record["params"] == selected["params"]
    assert record["macs_g"] == selected["macs_g"]


@pytest.fixture
def copied(finished_runs, tmp_path):
    """The runs that select reads, and itself."""
    for phase in ("expand-unet", "calibrate", "search", "select"):
        shutil.copytree(finished_runs / phase, tmp_path / phase)
    return tmp_path


def test_a_saved_model_of_another_gap_is_refused(copied):
    path = copied / "select" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["conv_out.weight"] *= 1.01
    save_file(weights, path, {"format": "pt"})
    config, gap = micro_config("select", copied), read_result(copied / "select")["gap"]
    tampered = gap_of_saved(str(copied), "cpu", "1")
    assert not math.isclose(tampered, gap, rel_tol=1e-4)
    with pytest.raises(TocsrError, match=f"the gap that the search measured, {gap:.6g}, and has"):
        remeasured_gap(config, gap)


def test_a_saved_model_that_cannot_be_measured_says_why(copied):
    (copied / "select" / "unet" / "config.json").unlink()
    with pytest.raises(TocsrError, match=r"could not be measured: .*has no config\.json"):
        remeasured_gap(micro_config("select", copied), 1.0)


def test_a_budget_below_every_winner_is_refused_before_anything_is_written(copied):
    shutil.rmtree(copied / "select")
    least = min(w["params"] for w in read_result(copied / "search")["winners"])
    options = ("--rule=under", f"--budget={least - 1}")
    with pytest.raises(TocsrError, match=f"no winner of the search has at most {least - 1:,} par"):
        select.run(micro_config("select", copied, *options))
    assert not (copied / "select" / "unet").exists()
    told = micro_config("select", copied, "--rule=under", f"--budget={least}")
    assert select.run(told)["params"] == least  # as the error said


def red_pixels(path):
    """Those of the colour that marks the budget and what was selected."""
    image = Image.open(path).convert("RGB")
    return sum(
        n
        for n, (r, g, b) in image.getcolors(image.width * image.height)
        if r > 150 and g < 110 and b < 70
    )


def test_the_picture_of_select_marks_what_was_selected(finished_runs):
    assert red_pixels(finished_runs / "search" / "front.png") == 0
    assert red_pixels(finished_runs / "select" / "front.png") > 100
