"""What becomes of a surrogate, with whatever it trains, whenever it is killed or stopped."""

import pytest
from calibrated import NAMES, Killed, equal, log, weights

from tocsr.errors import TocsrError
from tocsr.train.learner import has_stalled
from tocsr.train.surrogate_training import grouped

PARAMS = {"a": 5, "b": 1, "c": 4, "d": 2}


@pytest.mark.parametrize(
    ("most", "num_groups", "expected"),
    [
        (0, 1, [["a", "b", "c", "d"]]),
        (0, 2, [["a", "b"], ["c", "d"]]),
        (6, 1, [["a", "b"], ["c", "d"]]),
        (1, 1, [["a"], ["c"], ["d"], ["b"]]),  # one alone may have more
        (0, 9, [["a"], ["c"], ["d"], ["b"]]),
    ],
)
def test_groups_are_balanced_and_within_their_bound(most, num_groups, expected):
    assert grouped(PARAMS, PARAMS, most, num_groups) == expected


def test_without_surrogates_there_are_no_groups():
    assert grouped({}, {}, 5, 2) == []


@pytest.mark.parametrize(
    ("checks", "patience", "stalled"),
    [
        ([1.0, 1.0, 1.0], 0, False),
        ([1.0, 0.95], 2, False),  # too few to tell
        ([1.0, 0.95, 0.92], 2, True),  # 8 % over two checks
        ([1.0, 0.95, 0.90], 2, False),  # 10 %
        ([1.0, 0.5, 0.6, 0.7], 2, True),  # the best is older
        ([1.0, 0.5, 0.6, 0.4], 2, False),
    ],
)
def test_a_training_has_stalled_where_its_best_check_fell_too_little(checks, patience, stalled):
    assert has_stalled(checks, patience, min_gain=0.1) == stalled


ALIKE = [
    (),
    ("--optim.accumulation=2", "--optim.max_grad_norm=0.01"),
    ("--optim.precision=bf16", "--optim.ema_decay=0", "--patience=0", "--optim.schedule=cosine"),
]


@pytest.mark.parametrize(
    "options", ALIKE, ids=["as it is", "in parts, clipped", "bf16, no average"]
)
def test_a_surrogate_is_the_same_alone_and_in_a_group(train, tmp_path, options):
    together = train("together", NAMES, *options)
    for name in NAMES:
        (alone,) = train("alone", [name], *options).values()
        assert equal(weights(tmp_path / "alone", name), weights(tmp_path / "together", name))
        assert alone["outputs"] == together[name]["outputs"]


def test_training_lowers_the_held_out_loss(train):
    before = train("before", NAMES, "--optim.lr=1e-12")
    after = train("after", NAMES)
    assert all(after[name]["heldout_loss"] < before[name]["heldout_loss"] for name in NAMES)


def test_a_group_shares_the_passes_of_the_teacher(train):
    rows = train("runs", NAMES).values()
    assert sum(row["teacher_passes"] for row in rows) == pytest.approx(4)  # one a step


def test_every_output_is_logged_apart(train, tmp_path):
    train("runs", NAMES[:1])
    for line in log(tmp_path / "runs", NAMES[0]):
        outputs = [line[port] for port in ("E1.skip0", "E1.skip1", "E1.out")]
        assert line["loss"] == pytest.approx(sum(outputs) / 3)  # float32


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_killed_group_ends_as_an_uninterrupted_one(train, tmp_path, killed_after):
    def kill(label, done, total, figures):
        if done == killed_after:
            raise Killed

    with pytest.raises(Killed):
        train("killed", NAMES, report=kill)
    resumed, whole = train("killed", NAMES), train("whole", NAMES)
    for name in NAMES:
        assert equal(weights(tmp_path / "killed", name), weights(tmp_path / "whole", name))
        assert resumed[name]["outputs"] == whole[name]["outputs"]
        assert [line["step"] for line in log(tmp_path / "killed", name)] == [1, 2, 3, 4]


def test_a_killed_group_may_go_on_in_other_groups(train, tmp_path):
    def kill(label, done, total, figures):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        train("killed", NAMES[:2], report=kill)  # both stand at step 2
    train("killed", NAMES[1:])
    train("whole", NAMES)
    assert equal(weights(tmp_path / "killed", NAMES[1]), weights(tmp_path / "whole", NAMES[1]))
    assert equal(weights(tmp_path / "killed", NAMES[2]), weights(tmp_path / "whole", NAMES[2]))
    train("killed", NAMES[:1])
    assert equal(weights(tmp_path / "killed", NAMES[0]), weights(tmp_path / "whole", NAMES[0]))


STOPS = ("--check_every=1", "--patience=2", "--min_gain=0.9", "--optim.num_steps=6")


def test_a_surrogate_that_has_stalled_stops_early(train, tmp_path):
    rows = train("runs", NAMES, *STOPS)
    assert {row["steps"] for row in rows.values()} == {3}
    assert all(row["stopped_early"] for row in rows.values())
    assert len(log(tmp_path / "runs", NAMES[0])) == 3


def test_a_stop_keeps_the_best_average(train, tmp_path):
    options = (
        *STOPS,
        "--optim.lr=3",
        "--optim.ema_decay=0",
    )  # the first step goes astray the least
    rows = train("runs", NAMES[:1], *options)
    checks = [line["check_loss"] for line in log(tmp_path / "runs", NAMES[0])]
    assert checks[0] < min(checks[1:])
    train("first", NAMES[:1], *options, "--optim.num_steps=1")
    assert rows[NAMES[0]]["steps"] == 3
    assert equal(weights(tmp_path / "runs", NAMES[0]), weights(tmp_path / "first", NAMES[0]))


def test_the_others_go_on_where_one_has_stopped(train, tmp_path):
    options = ("--check_every=1", "--patience=2", "--min_gain=0.03", "--optim.num_steps=6")
    rows = train("together", NAMES, *options)
    steps = [rows[name]["steps"] for name in NAMES]
    assert min(steps) < max(steps)
    for name in NAMES:
        train("alone", [name], *options)
        assert equal(weights(tmp_path / "alone", name), weights(tmp_path / "together", name))


def test_a_loss_that_is_not_finite_names_the_surrogate_and_the_photos(train):
    with pytest.raises(TocsrError, match=r"the loss of E1/r1-full-full in step 1 .*\.webp"):
        train("runs", NAMES[:1], "--optim.lr=1e30", "--patience=0")
