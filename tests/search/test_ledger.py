import json

import pytest

from tocsr.errors import TocsrError
from tocsr.search.ledger import Ledger
from tocsr.search.prefixes import Measured

LIBRARY = {"E1": ["teacher", "r1"], "B": ["r2", "r0"]}


def add_two(path):
    ledger = Ledger(path, LIBRARY)
    ledger.add_((0, 1), {"params": 7, "macs_g": 0.5}, Measured(0.25, 8), teacher_power=0.5)
    ledger.add_((1, 0), {"params": 5, "macs_g": 0.4}, Measured(0.5, 4), teacher_power=0.5)
    return ledger


def test_a_line_says_what_was_chosen_what_it_costs_and_how_far_it_is(tmp_path):
    add_two(tmp_path / "ledger.jsonl")
    first = json.loads((tmp_path / "ledger.jsonl").read_text().splitlines()[0])
    assert first == {
        "candidate": {"E1": "teacher", "B": "r0"},
        "params": 7,
        "macs_g": 0.5,
        "gap": 0.25,
        "relative_gap": 0.5,
        "num_samples": 8,
    }


def test_what_is_read_again_is_what_was_added_in_its_order(tmp_path):
    written = add_two(tmp_path / "ledger.jsonl")
    again = Ledger(tmp_path / "ledger.jsonl", LIBRARY)
    assert list(again.records.items()) == list(written.records.items())
    assert list(again.gaps.items()) == [((0, 1), 0.25), ((1, 0), 0.5)]


def test_a_line_that_a_kill_cut_short_is_lost_alone(tmp_path):
    path = tmp_path / "ledger.jsonl"
    add_two(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    ledger = Ledger(path, LIBRARY)
    assert list(ledger.records) == [(0, 1)]
    ledger.add_((1, 0), {"params": 5, "macs_g": 0.4}, Measured(0.5, 4), teacher_power=0.5)
    assert path.read_bytes() == whole


def test_a_ledger_is_only_added_to(tmp_path):
    path = tmp_path / "ledger.jsonl"
    add_two(path)
    before = path.read_bytes()
    Ledger(path, LIBRARY).add_((1, 1), {"params": 1}, Measured(1.0, 8), teacher_power=0.5)
    assert path.read_bytes().startswith(before)


def test_the_ledger_of_another_library_is_refused(tmp_path):
    add_two(tmp_path / "ledger.jsonl")
    with pytest.raises(TocsrError, match="made with other surrogates than calibrate now has"):
        Ledger(tmp_path / "ledger.jsonl", {**LIBRARY, "B": ["r2"]})
