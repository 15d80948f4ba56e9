"""Gaps: the plain way, the shared way, and stopping early."""

import math
import random

import pytest
import torch
from micro import micro_config

from tocsr.models.compact import assembled
from tocsr.models.cost import model_params
from tocsr.models.folders import load_surrogates, load_unet, load_vae
from tocsr.models.variants import TEACHER
from tocsr.runs import read_result
from tocsr.search.fidelity import (
    capture_targets,
    fidelity_gap,
    mean_error,
    mean_square,
    objectives,
    squared_error,
    teacher_power,
)
from tocsr.search.prefixes import FidelityGap, PrefixCache

BATCH, NUM_BATCHES = 2, 3
MIB = 2**20


class Bench:
    """What the micro recipe's search reads, captured with some memory for features."""

    def __init__(self, runs, features_mb=1024.0):
        folder, calibrated = runs / "expand-unet", read_result(runs / "calibrate")
        self.library = calibrated["library"]
        self.teacher = load_unet(folder / "unet").requires_grad_(False)
        self.surrogates = load_surrogates(
            self.teacher, runs / "calibrate" / "surrogates", calibrated["surrogates"]
        )
        self.gaps = {}
        vae = load_vae(folder / "vae").requires_grad_(False)
        data = micro_config("search", runs).data
        self.targets = capture_targets(
            self.teacher, vae, data, BATCH * NUM_BATCHES, BATCH, 0, features_mb
        )

    def plain(self, choice):
        """The gap of the assembled network, computed once for each choice."""
        key = tuple(choice.items())
        if key not in self.gaps:
            unet = assembled(self.teacher, choice, self.surrogates)
            self.gaps[key] = fidelity_gap(unet, self.targets)
        return self.gaps[key]

    def shared(self, cache_mb):
        return FidelityGap(self.teacher, self.surrogates, self.targets, cache_mb)

    def random(self, num, seed=0):
        rng = random.Random(seed)
        rows = {s: list(dict.fromkeys([TEACHER, *names])) for s, names in self.library.items()}
        return [{stage: rng.choice(names) for stage, names in rows.items()} for _ in range(num)]


@pytest.fixture(scope="module")
def bench(finished_runs):
    torch.set_num_threads(1)
    return Bench(finished_runs)


def features_mib(bench):
    """The teacher's features of one batch."""
    return bench.targets[0].features_bytes / MIB


def all_teacher(bench):
    return dict.fromkeys((stage.name for stage in bench.teacher.stage_table), TEACHER)


def test_the_all_teacher_candidate_has_gap_0_either_way(bench):
    assert bench.plain(all_teacher(bench)) == 0
    for cache_mb in (0, 1024):
        assert bench.shared(cache_mb)(all_teacher(bench)).gap == 0


def test_the_gap_of_a_network_that_says_zero_is_the_teachers_power(bench):
    gap = fidelity_gap(lambda noisy, timestep: torch.zeros_like(noisy), bench.targets)
    assert gap == teacher_power(bench.targets)


def test_the_objectives_are_size_and_gap(bench):
    assert objectives(bench.teacher, bench.targets) == (model_params(bench.teacher), 0.0)


def test_the_gap_is_the_mean_square_over_all_elements(bench):
    choice = bench.random(1)[0]
    unet = assembled(bench.teacher, choice, bench.surrogates)
    with torch.no_grad():
        errors = torch.cat([unet(t.noisy, t.timestep) - t.noise_pred for t in bench.targets])
    # float64 sums in another order
    assert bench.plain(choice) == pytest.approx(float(errors.double().square().mean()), rel=1e-12)


@pytest.mark.parametrize("paths", [0, 2.5, 7.5, 1000], ids=lambda paths: f"memory of {paths} ways")
@pytest.mark.parametrize("order", ["random", "sorted"])
def test_shared_prefixes_change_no_bit_of_a_gap(bench, paths, order):
    shared = bench.shared(paths * features_mib(bench))
    choices = bench.random(8)
    if order == "sorted":
        choices.sort(key=lambda choice: list(choice.values()))
    assert [shared(c).gap for c in choices] == [bench.plain(c) for c in choices]
    assert [shared(c).gap for c in choices[::-1]] == [bench.plain(c) for c in choices[::-1]]


def test_the_captured_features_are_those_that_the_teacher_computes(bench):
    batch = bench.targets[1]
    record = {}
    with torch.no_grad():
        bench.teacher(batch.noisy, batch.timestep, record=record)
    ports = [port.name for stage in bench.teacher.stage_table for port in stage.outputs]
    assert batch.features.keys() == {"conv_in", *ports}
    assert all(batch.features[name].equal(record[name]) for name in batch.features)


def counted_calls(shared):
    """How often each stage's teacher block and each surrogate was called, filled as it is."""
    calls = {}

    def count(name):
        calls[name] = 0

        def hook(*_):
            calls[name] += 1

        return hook

    own = {f"{name}/{TEACHER}": block for name, block in shared.teacher.stages.items()}
    for name, block in {**own, **shared.surrogates}.items():
        block.register_forward_hook(count(name))
    return calls


def test_what_the_teacher_computed_and_a_prefix_before_is_not_computed_again(finished_runs):
    bench = Bench(finished_runs)
    shared = bench.shared(1024)
    calls = counted_calls(shared)
    stages = list(bench.library)
    first = {**all_teacher(bench), stages[2]: bench.library[stages[2]][-1]}
    second = {**first, stages[-1]: bench.library[stages[-1]][-1]}
    shared(first)
    by_stage = {stage: calls[f"{stage}/{first[stage]}"] for stage in stages}
    assert by_stage == {s: 0 if i < 2 else NUM_BATCHES for i, s in enumerate(stages)}
    before = sum(calls.values())
    shared(second)
    assert calls[f"{stages[-1]}/{second[stages[-1]]}"] == NUM_BATCHES
    assert sum(calls.values()) == before + NUM_BATCHES  # the last stage alone
    shared(second)
    assert sum(calls.values()) == before + NUM_BATCHES


@pytest.mark.parametrize(("paths", "kept"), [(0.5, 0), (1.5, 1), (2.5, 2), (9, 3)])
def test_the_first_batches_keep_features_as_far_as_memory_goes(finished_runs, bench, paths, kept):
    limited = Bench(finished_runs, paths * features_mib(bench))
    assert [bool(t.features) for t in limited.targets] == [i < kept for i in range(NUM_BATCHES)]
    shared = limited.shared(paths * features_mib(bench))
    choices = bench.random(8)
    assert [shared(c).gap for c in choices] == [bench.plain(c) for c in choices]
    for choice in choices:
        shared(choice)
        held = sum(cache.num_bytes for cache in shared.caches)
        held += sum(t.features_bytes for t in limited.targets)
        assert held <= paths * features_mib(bench) * MIB


def way(*sizes):
    return [[torch.zeros(size, dtype=torch.uint8)] for size in sizes]


def test_the_cache_drops_what_was_used_longest_ago_and_long_prefixes_first():
    cache = PrefixCache({}, max_bytes=12)
    cache.keep_(("a", "b"), way(1, 4, 4))
    assert [len(outputs) for outputs in cache.known(("a", "b"))] == [1, 1, 1]
    cache.keep_(("a", "c"), [*cache.known(("a",)), *way(4)])  # 13 bytes: a, b has to go
    assert len(cache.known(("a", "b"))) == 2
    assert len(cache.known(("a", "c"))) == 3
    cache.keep_(("x", "y"), way(1, 4, 4))
    assert len(cache.known(("a", "c"))) == 1  # conv_in alone
    assert len(cache.known(("x", "y"))) == 3
    assert cache.num_bytes == sum(o[0].nbytes for o in cache.recent.values()) <= 12


def test_captured_prefixes_stay_and_count_elsewhere():
    cache = PrefixCache({(): way(9)[0], ("teacher",): way(9)[0]}, max_bytes=0)
    cache.keep_(("teacher", "b"), way(9, 9, 9))
    assert cache.num_bytes == 0
    assert len(cache.known(("teacher", "b"))) == 2


def near_the_teacher(bench):
    """Candidates of one surrogate, which are far nearer to the teacher than random ones."""
    own = all_teacher(bench)
    return [{**own, stage: name} for stage, names in bench.library.items() for name in names[1:3]]


def test_an_abandoned_candidate_is_above_the_bound_for_certain_and_the_others_are_whole(bench):
    near, shared, whole = near_the_teacher(bench), bench.shared(1024), BATCH * NUM_BATCHES
    gaps = [bench.plain(choice) for choice in near]
    bound = sorted(gaps)[len(gaps) // 2]  # a gap itself: equal is not above
    choices = near + bench.random(12, seed=1)
    seen = []
    for choice, gap in zip(
        choices, gaps + [bench.plain(c) for c in choices[len(near) :]], strict=True
    ):
        measured = shared(choice, abandon_above=bound)
        seen.append(measured.num_samples)
        assert (measured.gap <= bound) == (gap <= bound)
        if gap <= bound:
            assert measured.num_samples == whole
        if measured.num_samples == whole:
            assert measured.gap == gap
    assert {BATCH, whole} <= set(seen)


def test_a_candidate_is_abandoned_at_the_first_batch_that_makes_it_certain(bench):
    choice = bench.random(1, seed=2)[0]
    unet = assembled(bench.teacher, choice, bench.surrogates)
    with torch.no_grad():
        errors = [squared_error(unet(t.noisy, t.timestep), t) for t in bench.targets]
    shared = bench.shared(0)
    after_two = (errors[0] + errors[1]) / NUM_BATCHES
    measured = shared(choice, abandon_above=math.nextafter(after_two, 0))
    assert measured.num_samples == 2 * BATCH
    assert measured.gap == (errors[0] + errors[1]) / 2
    assert shared(choice, abandon_above=after_two).num_samples == 3 * BATCH


def test_sums_of_errors_never_fall_in_floating_point():
    rng = random.Random(0)
    for _ in range(200):
        errors = [rng.random() * 10 ** rng.uniform(-20, 3) for _ in range(50)]
        sums = [mean_error(errors[:n], 50) for n in range(1, 51)]
        assert sums == sorted(sums)


def test_a_mean_square_does_not_depend_on_the_number_of_threads():
    x = torch.randn(16, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    alone = [mean_square(x * factor) for factor in range(1, 20)]
    torch.set_num_threads(2)
    try:
        assert [mean_square(x * factor) for factor in range(1, 20)] == alone
    finally:
        torch.set_num_threads(1)
