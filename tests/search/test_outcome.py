from types import SimpleNamespace

import pytest
from PIL import Image

from tocsr.errors import TocsrError
from tocsr.search.frechet import LABEL
from tocsr.search.ledger import Ledger
from tocsr.search.objectives import OBJECTIVES
from tocsr.search.outcome import front_of, winners_of
from tocsr.search.plot import write_front
from tocsr.search.prefixes import Measured
from tocsr.search.space import SearchSpace
from tocsr.search.table import winners_table

LIBRARY = {"E1": ["teacher", "r1", "r0"], "B": ["r2", "r0"]}
SPACE = SearchSpace(((100.0, 50.0, 10.0), (20.0, 5.0)))
GAPS = {
    (0, 0): (0.0, 8),
    (1, 0): (0.001, 8),
    (1, 1): (0.004, 8),
    (2, 0): (0.003, 8),
    (2, 1): (0.02, 4),
}


def config(**told):
    defaults = {"mode": "tolerances", "tolerances": (0.001, 0.0035, 0.01), "num_samples": 8}
    return SimpleNamespace(**{**defaults, **told})


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", LIBRARY)
    for candidate, (gap, num_samples) in GAPS.items():
        costs = {"params": SPACE.cost(candidate) + 1, "macs_g": 0.5}
        ledger.add_(candidate, costs, Measured(gap, num_samples), teacher_power=0.5)
    return ledger


def test_the_winner_of_a_tolerance_is_the_cheapest_within_it(ledger):
    found = winners_of(config(), SPACE, ledger)
    assert [(w["tolerance"], w["params"], w["gap"]) for w in found] == [
        (0.001, 71, 0.001),
        (0.0035, 31, 0.003),
        (0.01, 31, 0.003),
    ]


def test_a_tolerance_without_a_candidate_has_no_winner(ledger):
    del ledger.records[0, 0]
    assert [w["tolerance"] for w in winners_of(config(tolerances=(1e-9, 0.01)), SPACE, ledger)] == [
        0.01
    ]


def test_no_feasible_candidate_is_a_clear_error(ledger):
    del ledger.records[0, 0]
    with pytest.raises(TocsrError, match=r"gap of at most 0\.0001; the least seen is 0\.001;"):
        winners_of(config(tolerances=(1e-5, 1e-4)), SPACE, ledger)


def test_the_front_holds_what_no_other_one_beats_and_nothing_abandoned(ledger):
    assert [r["params"] for r in front_of(config(), SPACE, ledger)] == [31, 71, 121]


def test_in_mode_front_every_candidate_of_the_front_within_a_tolerance_may_be_selected(ledger):
    found = winners_of(config(mode="front", tolerances=(0.002, 0.0035)), SPACE, ledger)
    assert [(w["tolerance"], w["params"]) for w in found] == [
        (0.0035, 31),
        (0.002, 71),
        (0.002, 121),
    ]


def winner(**more):
    return {
        "tolerance": 0.001,
        "candidate": {"E1": "teacher", "B": "r0"},
        "params": 687472,
        "macs_g": 1.0944,
        "gap": 0.00093726,
        "relative_gap": 0.0014933,
        **more,
    }


def test_the_table_has_a_row_for_each_winner():
    lines = winners_table([winner(), winner(tolerance=0.003)], {}).splitlines()
    assert lines[0] == "| tolerance | parameters | GMACs at 512 x 512 | gap | relative gap |"
    assert lines[2:4] == [
        "| 0.001 | 687,472 | 1.094 | 0.000937 | 0.00149 |",
        "| 0.003 | 687,472 | 1.094 | 0.000937 | 0.00149 |",
    ]
    assert lines[5:8] == [
        "| tolerance | E1 | B |",
        "| --- | --- | --- |",
        "| 0.001 | teacher | r0 |",
    ]


def test_the_table_says_what_its_frechet_distance_is():
    text = winners_table([winner(frechet_distance=0.01234)], {})
    assert text.splitlines()[0].endswith("| Frechet distance |")
    assert text.splitlines()[2].endswith("| 0.0123 |")
    assert LABEL in text
    assert "not FID" in LABEL
    assert LABEL not in winners_table([winner()], {})


def test_the_table_names_the_machine_that_latency_was_measured_on():
    text = winners_table([winner(latency_ms=12.345)], {}, "Latency: on a Z80, threads: 1.")
    assert "| latency, ms |" in text.splitlines()[0]
    assert "| 12.35 |" in text.splitlines()[2]
    assert text.endswith("on a Z80, threads: 1.\n")


def test_a_surrogate_that_does_not_beat_leaving_the_stage_out_is_marked():
    rows = {"B/r0": {"beats_leaving_out": False}, "E1/r1": {"beats_leaving_out": True}}
    text = winners_table([winner(), winner(candidate={"E1": "r1", "B": "r2"})], rows)
    assert "| 0.001 | teacher | r0* |" in text
    assert "| 0.001 | r1 | r2 |" in text
    assert "* Calibration did not make this surrogate better than leaving it out." in text
    assert "*" not in winners_table([winner()], {})


def colours(path):
    image = Image.open(path).convert("RGB")
    return {colour for _, colour in image.getcolors(image.width * image.height)}


def test_the_picture_is_drawn_with_gaps_of_0_and_abandoned_candidates(ledger, tmp_path):
    records, power = list(ledger.records.values()), 0.5
    front, path = front_of(config(), SPACE, ledger), tmp_path / "front.png"
    found = winners_of(config(), SPACE, ledger)
    args = (records, front, found, (0.001, 0.01), power, OBJECTIVES["params"])
    write_front(path, *args)
    assert Image.open(path).size == (1125, 750)
    plain = colours(path)
    assert (0x25, 0x63, 0xA8) in plain  # front and winners
    assert (0xC2, 0x41, 0x0C) not in plain
    write_front(path, *args, selected=found[0], budget=80)
    assert (0xC2, 0x41, 0x0C) in colours(path)
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_picture_can_be_of_any_objective(objective, tmp_path):
    key = OBJECTIVES[objective].key
    one = {key: 0.5, "gap": 0.25, "relative_gap": 0.5, "num_samples": 8}
    write_front(tmp_path / "a.png", [one], [one], [one], (0.3,), 0.5, OBJECTIVES[objective])
    assert Image.open(tmp_path / "a.png").size == (1125, 750)
