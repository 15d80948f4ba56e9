"""What candidates cost: parameters, GMACs, and latency by a clock that we set."""

import random

import pytest
import torch
from micro import MICRO

from tocsr.models.compact import assembled
from tocsr.models.cost import unet_cost
from tocsr.models.folders import base_unet
from tocsr.models.library import library_costs, surrogate_library
from tocsr.models.surrogates import SurrogateStage
from tocsr.models.variants import TEACHER, find_variant
from tocsr.search.latency import machine_name, measured_latency, median_ms, unet_inputs
from tocsr.search.objectives import OBJECTIVES, PIXELS, Costs
from tocsr.search.space import SearchSpace


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return base_unet(str(MICRO)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def library(teacher):
    return surrogate_library(teacher)


@pytest.fixture(scope="module")
def surrogates(teacher, library):
    return {
        f"{stage.name}/{name}": SurrogateStage(
            stage, find_variant(stage.kind, name), teacher.facts
        ).eval()
        for stage in teacher.stage_table
        for name in library[stage.name]
        if name != TEACHER
    }


@pytest.fixture(scope="module")
def counted(teacher, library):
    return library_costs(teacher, library, PIXELS)


def test_a_candidate_costs_what_its_network_costs(teacher, library, surrogates, counted):
    rng = random.Random(0)
    for _ in range(5):
        choice = {stage: rng.choice(names) for stage, names in library.items()}
        whole = unet_cost(assembled(teacher, choice, surrogates), PIXELS)
        assert Costs(counted).of(choice) == {"params": whole.params, "macs_g": whole.macs_g}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_space_orders_candidates_as_the_ledgers_figures_do(library, counted, objective):
    rng = random.Random(0)
    names = [f"{stage}/{name}" for stage, row in library.items() for name in row]
    costs = Costs(counted, {name: rng.random() for name in [*names, "rest"]})
    space, key = SearchSpace(costs.by_stage(objective)), OBJECTIVES[objective].key
    first = tuple(0 for _ in library)
    for _ in range(5):
        candidate = tuple(rng.randrange(len(row)) for row in library.values())
        told, base = (
            costs.of({s: row[k] for (s, row), k in zip(library.items(), a, strict=True)})[key]
            for a in (candidate, first)
        )
        # without the rest, which all have
        assert told - base == pytest.approx(space.cost(candidate) - space.cost(first), abs=1e-9)


@pytest.mark.parametrize(
    ("objective", "cost", "text"),
    [
        ("params", 687472, "687,472 parameters"),
        ("macs", 143.21, "143.2 GMACs"),
        ("latency", 0.5, "0.5 ms"),
    ],
)
def test_a_cost_is_written_with_its_unit(objective, cost, text):
    assert OBJECTIVES[objective].text(cost) == text


class Clock:
    """A clock that only moves when someone works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, *seconds):
        """A call that takes so long the first time, the second and so on."""
        left = list(seconds)

        def call():
            self.now += left.pop(0)

        return call


def test_latency_is_the_median_after_a_round_to_warm_up():
    clock = Clock()
    calls = {"a": clock.work(9.0, 0.003, 0.001, 5.0), "b": clock.work(9.0, 0.002, 0.002, 0.001)}
    found = median_ms(calls, 3, torch.device("cpu"), clock)
    assert found == {"a": pytest.approx(3), "b": pytest.approx(2)}


def test_rounds_take_turns_so_that_all_meet_the_same_noise():
    order = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    median_ms(calls, 2, torch.device("cpu"))
    assert order == list("abc") * 3


def test_every_block_is_timed_and_the_machine_is_named(teacher, library, surrogates):
    told = measured_latency(teacher, surrogates, library, 64, 1)
    names = {f"{stage}/{name}" for stage, row in library.items() for name in row}
    assert told["median_ms"].keys() == names | {"rest"}
    assert all(ms > 0 for ms in told["median_ms"].values())
    assert told["machine"] == machine_name(torch.device("cpu")) != ""
    assert (told["pixels"], told["num_rounds"]) == (64, 1)


def test_the_inputs_fit_the_network(teacher):
    assert teacher(*unet_inputs(teacher, 64)).shape == (1, teacher.latent_channels, 8, 8)
