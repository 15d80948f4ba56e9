"""The phase: what it finds, with one process or several, whole or killed, for each objective."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise

import pytest
from micro import MICRO, micro_config
from PIL import Image

from tocsr.errors import TocsrError
from tocsr.runs import Run, read_result
from tocsr.search import search
from tocsr.search.configs import SearchConfig, settings_of
from tocsr.search.frechet import LABEL

FILES = {"config.yaml", "ledger.jsonl", "front.json", "front.png", "result.json", "table.md"}


@pytest.fixture
def ready(finished_runs, tmp_path):
    """Runs in which search is next."""
    for phase in ("expand-unet", "calibrate"):
        shutil.copytree(finished_runs / phase, tmp_path / phase)
    return tmp_path


def ledger_of(runs):
    return [json.loads(line) for line in (runs / "search" / "ledger.jsonl").open()]


def as_set(records):
    return {json.dumps(record, sort_keys=True) for record in records}


def test_a_finished_search_holds_these_files(finished_runs):
    found = {path.name for path in (finished_runs / "search").iterdir()}
    assert found - {".lock"} == FILES


def test_the_ledger_has_a_line_for_every_evaluation(finished_runs):
    records, result = ledger_of(finished_runs), read_result(finished_runs / "search")
    assert len(as_set(records)) == len(records) == result["evaluations"]
    power = result["teacher_power"]
    for record in records:
        assert record["num_samples"] == 4 or record["gap"] > 0.1  # abandoned
        assert record["relative_gap"] == record["gap"] / power
        assert record["macs_g"] > 0


def test_a_larger_tolerance_never_gives_a_larger_winner(finished_runs):
    winners = read_result(finished_runs / "search")["winners"]
    ordered = sorted(winners, key=lambda w: w["tolerance"])
    assert all(a["params"] >= b["params"] for a, b in pairwise(ordered))


def test_a_winner_is_measured_to_be_within_its_tolerance(finished_runs):
    records = as_set(ledger_of(finished_runs))
    for winner in read_result(finished_runs / "search")["winners"]:
        assert winner["gap"] <= winner["tolerance"]
        of_search = ("tolerance", "frechet_distance")
        line = {key: value for key, value in winner.items() if key not in of_search}
        assert as_set([line]) <= records


def test_the_table_and_the_front_are_of_this_search(finished_runs):
    winners = read_result(finished_runs / "search")["winners"]
    text = (finished_runs / "search" / "table.md").read_text()
    assert all(f"| {w['tolerance']:g} | {w['params']:,} |" in text for w in winners)
    assert LABEL in text
    front = json.loads((finished_runs / "search" / "front.json").read_text())
    assert as_set(front) <= as_set(ledger_of(finished_runs))
    assert all(a["gap"] > b["gap"] and a["params"] < b["params"] for a, b in pairwise(front))
    assert Image.open(finished_runs / "search" / "front.png").format == "PNG"


def test_the_frechet_distance_can_be_left_out(ready):
    result = search.run(micro_config("search", ready, "--num_frechet_samples=0"))
    assert all("frechet_distance" not in winner for winner in result["winners"])
    assert LABEL not in (ready / "search" / "table.md").read_text()


def test_no_feasible_candidate_is_a_clear_error(ready):
    options = ("--tolerances=[1e-12]", "--num_iterations=1")
    with pytest.raises(TocsrError, match=r"no candidate has a gap of at most 1e-12; the least"):
        search.run(micro_config("search", ready, *options))


def test_progress_shows_the_incumbent_of_every_tolerance(ready):
    seen = []
    search.run(
        micro_config("search", ready),
        lambda label, done, total, figures: seen.append((label, done, total, dict(figures))),
    )
    searched = [row for row in seen if row[0] == "search"]
    assert [done for _, done, _, _ in searched] == list(range(1, len(searched) + 1))
    assert {total for _, _, total, _ in searched} == {
        49 + 2 * 2
    }  # single swaps, then two proposals for each tolerance
    last = searched[-1][3]
    winners = {w["tolerance"]: w["params"] for w in read_result(ready / "search")["winners"]}
    assert last == {f"params at {t:g}": params for t, params in winners.items()}
    for before, after in pairwise(row[3] for row in searched):
        assert all(after[key] <= value for key, value in before.items())


@pytest.mark.parametrize("objective", ["macs", "latency"])
def test_each_objective_is_what_winners_are_small_in(ready, objective):
    options = (f"--objective={objective}", "--latency_pixels=64", "--latency_rounds=2")
    result = search.run(micro_config("search", ready, *options))
    key = {"macs": "macs_g", "latency": "latency_ms"}[objective]
    records = ledger_of(ready)
    for winner in result["winners"]:
        feasible = [r[key] for r in records if r["gap"] <= winner["tolerance"]]
        assert winner[key] == pytest.approx(min(feasible), rel=1e-9)  # sums in another order
    assert (ready / "search" / "latency.json").exists() == (objective == "latency")


def test_latency_is_measured_once_and_a_search_that_goes_on_keeps_it(ready):
    options = ("--objective=latency", "--latency_pixels=64", "--latency_rounds=1")
    config = micro_config("search", ready, *options)
    search.run(config)
    path = ready / "search" / "latency.json"
    told, ledger = path.read_text(), ledger_of(ready)
    (ready / "search" / "result.json").unlink()
    again = search.run(config)
    assert path.read_text() == told
    assert ledger_of(ready) == ledger
    assert json.loads(told)["machine"] in (ready / "search" / "table.md").read_text()
    total = json.loads(told)["median_ms"]
    winner = again["winners"][0]
    blocks = [total[f"{stage}/{name}"] for stage, name in winner["candidate"].items()]
    assert winner["latency_ms"] == pytest.approx(sum(blocks) + total["rest"])


def test_mode_front_gives_the_whole_front(ready):
    options = ("--mode=front", "--num_iterations=4")
    result = search.run(micro_config("search", ready, *options))
    assert all(record["num_samples"] == 4 for record in ledger_of(ready))  # none abandoned
    front = json.loads((ready / "search" / "front.json").read_text())
    within = [record for record in front if record["gap"] <= 0.1]
    assert [w["params"] for w in result["winners"]] == [record["params"] for record in within]
    assert result["evaluations"] == 49 + 1 + 4  # single swaps, the cheapest, proposals


def test_abandoned_candidates_change_no_winners_gap(ready):
    options = ("--tolerances=[0.001]",)
    result = search.run(micro_config("search", ready, *options))
    records = ledger_of(ready)
    assert {record["num_samples"] for record in records} == {2, 4}
    assert all(r["gap"] > 0.001 for r in records if r["num_samples"] < 4)
    assert all(winner["num_samples"] == 4 for winner in result["winners"])


def test_the_settings_of_a_search_are_read_back_as_they_were(ready):
    config = micro_config("search", ready, "--tolerances=[0.5,1.5]")
    Run.open(config).close()
    found = settings_of(ready / "search", config)
    assert type(found) is SearchConfig
    assert found == config


PARALLEL = ("--num_parallel=2", "--num_iterations=2")


@pytest.fixture(scope="module")
def alone(finished_runs, tmp_path_factory):
    """Runs with a search in batches of two, in this process, never interrupted."""
    runs = tmp_path_factory.mktemp("alone")
    for phase in ("expand-unet", "calibrate"):
        shutil.copytree(finished_runs / phase, runs / phase)
    search.run(micro_config("search", runs, *PARALLEL))
    return runs


@pytest.mark.parametrize("where", ["this machine", "a Ray cluster"])
def test_two_workers_observe_what_one_process_observes(ready, alone, where):
    workers = ["--workers=2"]
    if where == "a Ray cluster":
        pytest.importorskip("ray")
        workers.append("--ray=local")
    found = search.run(micro_config("search", ready, *PARALLEL, *workers))
    assert as_set(ledger_of(ready)) == as_set(ledger_of(alone))
    assert found == read_result(alone / "search")


def killed_after(runs, num_lines, *options):
    """Runs search in a process of its own that is killed (-9) once the ledger is so long."""
    command = [sys.executable, "-m", "tocsr", "search", f"--preset={MICRO}", f"--runs={runs}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, *options], env=environment, stderr=subprocess.DEVNULL)
    ledger, deadline = runs / "search" / "ledger.jsonl", time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if ledger.exists() and ledger.read_bytes().count(b"\n") >= num_lines:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (runs / "search" / "result.json").exists(), "it was done before it was killed"


def test_a_search_killed_with_two_workers_goes_on_to_the_same_result(ready, alone):
    killed_after(ready, 4, *PARALLEL, "--workers=2")
    observed, whole = ledger_of(ready), ledger_of(alone)
    assert 4 <= len(observed) < len(whole)
    found = search.run(micro_config("search", ready, *PARALLEL, "--workers=2"))
    assert found == read_result(alone / "search")
    assert ledger_of(ready)[: len(observed)] == observed  # nothing evaluated is lost
    assert as_set(ledger_of(ready)) == as_set(whole)
