"""Reading ahead and writing behind: order, errors, and how much is held at once."""

import threading

import pytest

from tocsr.deploy.overlap import overlapped
from tocsr.errors import TocsrError

PATIENCE = 10  # seconds until a test that waits in vain fails


class Steps:
    """Notes what begins and ends; waits where a test says so."""

    def __init__(self):
        self.log = []
        self.gates = {}

    def step(self, name, item):
        self.log.append(f"{name} {item}")
        if gate := self.gates.get(f"{name} {item}"):
            gate(item)
        self.log.append(f"{name} {item} done")

    def run(self, items, is_large=lambda *_: False):
        return overlapped(
            items,
            lambda item: self.step("read", item) or item,
            lambda item, given: self.step("work", item) or given,
            lambda item, made: self.step("write", item),
            is_large,
        )


def meet(steps, *names):
    """Makes steps wait for one another: they end only if they run at the same time."""
    barrier = threading.Barrier(len(names))
    for name in names:
        steps.gates[name] = lambda _: barrier.wait(PATIENCE)


def test_an_item_is_worked_on_while_the_next_is_read_and_the_last_is_written():
    steps = Steps()
    meet(steps, "write a", "work b", "read c")
    for _, written in steps.run("abc"):
        written.result()
    assert steps.log.count("work b done") == 1


def test_items_come_in_their_order_and_only_once_they_are_written():
    steps = Steps()
    for item, written in steps.run("abcd"):
        written.result()
        assert f"write {item} done" in steps.log
        steps.log.append(item)
    assert [entry for entry in steps.log if len(entry) == 1] == list("abcd")


def test_a_large_item_waits_until_the_one_before_is_written():
    steps = Steps()
    for _, written in steps.run("ab", is_large=lambda item, _: item == "b"):
        written.result()
    assert steps.log.index("write a done") < steps.log.index("work b")


@pytest.mark.parametrize("part", ["read", "work", "write"])
@pytest.mark.parametrize("kind", [TocsrError, OSError])
def test_an_item_that_fails_is_the_only_one(part, kind):
    steps, seen = Steps(), {}

    def fail(item):
        raise kind(f"{item} is bad")

    steps.gates[f"{part} b"] = fail
    for item, written in steps.run("abc"):
        seen[item] = written.exception()
    assert list(seen) == list("abc")
    assert [item for item, error in seen.items() if error] == ["b"]
    assert isinstance(seen["b"], kind)


def test_no_item_is_worked_on_after_one_that_ended_the_run():
    steps = Steps()

    def fail(item):
        raise TocsrError("the model is broken")

    steps.gates["work b"] = fail
    results = steps.run("abcd")
    for _, written in results:
        if written.exception():
            results.close()
            break
    assert "write a done" in steps.log
    assert "work c" not in steps.log


def test_another_error_is_not_held_back():
    steps = Steps()

    def fail(item):
        raise ZeroDivisionError

    steps.gates["work b"] = fail
    with pytest.raises(ZeroDivisionError):
        list(steps.run("abc"))
    assert "write a done" in steps.log


def test_the_first_item_is_read_where_an_interrupt_reaches_it():
    threads = []
    steps = Steps()
    steps.gates["read a"] = lambda _: threads.append(threading.current_thread())
    list(steps.run("ab"))
    assert threads == [threading.main_thread()]


def test_no_two_items_are_read_at_once():
    steps = Steps()
    list(steps.run("abc"))
    read = [entry for entry in steps.log if entry.startswith("read")]
    assert read == [f"read {item}{end}" for item in "abc" for end in ("", " done")]


def test_no_more_than_one_item_is_taken_ahead():
    steps, taken = Steps(), []

    def items():
        for item in "abcd":
            taken.append(item)
            yield item

    steps.gates["work a"] = lambda _: taken.append("work a")
    list(steps.run(items()))
    assert taken.index("work a") == 2
