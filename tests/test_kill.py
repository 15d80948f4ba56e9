"""`kill -9` at random moments of any phase, then the same command again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from micro import MICRO
from safetensors import safe_open

SCRIPT = Path(__file__).parent / "killed_recipe.py"


def run_recipe(runs: Path, seed: int) -> int:
    """Runs the micro recipe and returns how many times it was killed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(MICRO), str(runs), str(seed)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def tensors(runs: Path) -> dict[str, bytes]:
    """Every tensor of every safetensors file of a runs folder, by file and name."""
    found = {}
    for path in sorted(runs.rglob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118
                key = f"{path.relative_to(runs)}:{name}"
                found[key] = file.get_tensor(name).tobytes()
    return found


@pytest.fixture(scope="module")
def whole_and_killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int]:
    folder = tmp_path_factory.mktemp("kill")
    run_recipe(folder / "whole", -1)
    return folder / "whole", folder / "killed", run_recipe(folder / "killed", 0)


def test_it_was_killed_often_enough_to_tell(whole_and_killed):
    assert whole_and_killed[2] >= 5


def test_the_weights_of_every_phase_equal_an_uninterrupted_runs(whole_and_killed):
    whole, killed, _ = whole_and_killed
    expected, got = tensors(whole), tensors(killed)
    assert got.keys() == expected.keys()
    assert [name for name in got if got[name] != expected[name]] == []


def test_the_search_observed_the_same_candidates_in_the_same_order(whole_and_killed):
    ledgers = [(runs / "search" / "ledger.jsonl").read_text() for runs in whole_and_killed[:2]]
    assert ledgers[0] == ledgers[1]


def test_every_step_is_logged_once(whole_and_killed):
    for path in whole_and_killed[1].rglob("metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in path.open()]
        assert steps == [1, 2, 3, 4], path


def test_nothing_half_written_is_left_when_the_killed_recipe_is_finished(whole_and_killed):
    left = [str(p) for p in whole_and_killed[1].rglob(".*.part")]
    assert left == []
