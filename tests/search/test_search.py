import json
import shutil
from itertools import pairwise

import pytest
import torch
from micro import micro_config

from tocsr.errors import TocsrError
from tocsr.models.compact import assembled
from tocsr.models.cost import model_params
from tocsr.models.folders import load_unet, load_vae
from tocsr.models.variants import TEACHER
from tocsr.runs import read_result
from tocsr.search import search
from tocsr.search.fidelity import capture_targets, fidelity_gap, objectives, teacher_power
from tocsr.search.select import pick

WINNERS = [
    {"params": 173, "gap": 0.001},
    {"params": 146, "gap": 0.005},
    {"params": 120, "gap": 0.007},
]


@pytest.fixture(scope="module")
def captured(finished_runs):
    folder = finished_runs / "expand-unet"
    teacher = load_unet(folder / "unet").requires_grad_(False)
    config = micro_config("search", finished_runs)
    targets = capture_targets(
        teacher, load_vae(folder / "vae").requires_grad_(False), config.data, 4, 4, 0
    )
    return teacher, targets


def test_the_all_teacher_candidate_has_gap_0(captured):
    teacher, targets = captured
    choice = {stage.name: TEACHER for stage in teacher.stage_table}
    assert fidelity_gap(assembled(teacher, choice, {}), targets) == 0


def test_the_gap_of_a_network_that_says_zero_is_the_teachers_power(captured):
    _, targets = captured
    gap = fidelity_gap(lambda noisy, timestep: torch.zeros_like(noisy), targets)
    assert gap == pytest.approx(teacher_power(targets))


def test_the_objectives_are_size_and_gap(captured):
    teacher, targets = captured
    assert objectives(teacher, targets) == (model_params(teacher), 0.0)


def test_the_ledger_has_the_sizes_that_the_networks_have(finished_runs):
    records = [json.loads(x) for x in (finished_runs / "search" / "ledger.jsonl").open()]
    selected = read_result(finished_runs / "select")
    unet = load_unet(finished_runs / "select" / "unet")
    (record,) = [r for r in records if r["candidate"] == selected["candidate"]]
    assert record["params"] == model_params(unet)


def test_a_larger_tolerance_never_gives_a_larger_winner(finished_runs):
    winners = read_result(finished_runs / "search")["winners"]
    ordered = sorted(winners, key=lambda w: w["tolerance"])
    assert all(a["params"] >= b["params"] for a, b in pairwise(ordered))


def test_a_winner_is_within_its_tolerance(finished_runs):
    for winner in read_result(finished_runs / "search")["winners"]:
        assert winner["gap"] <= winner["tolerance"]


def test_no_feasible_candidate_is_a_clear_error(finished_runs, tmp_path):
    for phase in ("expand-unet", "calibrate"):
        shutil.copytree(finished_runs / phase, tmp_path / phase)
    options = ("--tolerances=[1e-12]", "--num_iterations=1", "--num_initial=2")
    with pytest.raises(TocsrError, match=r"no candidate has a gap of at most 1e-12; the least"):
        search.run(micro_config("search", tmp_path, *options))


@pytest.mark.parametrize(
    ("rule", "budget", "params"),
    [
        ("under", 150, 146),
        ("under", 172, 146),
        ("nearest", 165, 173),
        ("nearest", 125, 120),
        ("fewest", 1000, 120),
    ],
)
def test_each_rule_picks_what_it_says(rule, budget, params):
    assert pick(WINNERS, budget, rule)["params"] == params


def test_a_budget_below_every_winner_is_refused():
    with pytest.raises(TocsrError, match="at most 100 parameters, the smallest has 120"):
        pick(WINNERS, 100, "under")
