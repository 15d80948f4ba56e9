"""The executor of independent tasks, its workers killed and its caller interrupted."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import lightwork
import pytest
from lightwork import die, divide, has_torch, num_threads, pid, refuse, sleep, square

from tocsr.errors import ExitCode, TocsrError
from tocsr.tasks import MAX_DEATHS, MAX_GIVEN_UP, executor

SQUARES = [(task, task * task) for task in range(6)]


@pytest.fixture(scope="module")
def two():
    with executor(2) as of_two:
        yield of_two


@pytest.fixture(scope="module")
def on_ray():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'tocsr[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where its workers find lightwork
        with executor(2, "local") as of_two:
            yield of_two


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def within(seconds: float, condition) -> bool:
    """Whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def pids(folder: Path) -> list[int]:
    """The processes that left a note, once it is written."""
    return [int(text) for path in folder.iterdir() if (text := path.read_text())]


def until_error(results) -> tuple[list, TocsrError]:
    """What a map gave before the error that it ended with."""
    given = []
    with pytest.raises(TocsrError) as caught:
        given.extend(results)
    return given, caught.value


def test_in_this_process_tasks_are_done_one_by_one_when_asked_for():
    done = []
    with executor() as alone:
        results = alone.map(lambda task: done.append(task) or -task, [5, 6])
        assert (next(results), done) == ((0, -5), [5])
        assert (list(results), done) == ([(1, -6)], [5, 6])


def test_every_task_is_done_once_by_processes(two):
    assert sorted(two.map(square, range(6))) == SQUARES


def test_no_tasks_give_no_results(two):
    assert list(two.map(square, [])) == []


def test_a_result_does_not_wait_for_the_tasks_before_it(two, tmp_path):
    results = two.map(partial(sleep, tmp_path), [1000, 0])
    assert next(results) == (1, 0)
    results.close()


def test_the_next_map_finds_the_same_workers(two):
    first, second = ({made for _, made in two.map(pid, range(8))} for _ in range(2))
    assert first & second


def test_a_map_left_early_ends_its_tasks_and_the_next_one_works(two, tmp_path):
    results = two.map(partial(sleep, tmp_path), [1000, 0])
    next(results)
    assert within(60, lambda: len(pids(tmp_path)) == 2)
    results.close()
    assert not is_alive(int((tmp_path / "1000.0").read_text()))
    assert sorted(two.map(square, range(6))) == SQUARES


def test_a_worker_loads_no_torch_by_itself(two):
    assert not any(made for _, made in two.map(has_torch, range(2)))


def test_workers_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("tocsr.tasks._num_cores", lambda: 7)
    with executor(2) as of_two:
        assert {made for _, made in of_two.map(num_threads, range(2))} == {"3"}


def test_more_workers_than_cores_have_a_thread_each(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("tocsr.tasks._num_cores", lambda: 1)
    with executor(2) as of_two:
        assert {made for _, made in of_two.map(num_threads, range(2))} == {"1"}


def test_the_number_of_threads_is_the_users_where_it_is_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    with executor(2) as of_two:
        assert {made for _, made in of_two.map(num_threads, range(2))} == {"5"}


def test_a_task_whose_worker_was_killed_is_tried_again_and_no_other_is(two, tmp_path):
    work = partial(die, tmp_path, {2}, 1)
    assert sorted(two.map(work, range(6))) == SQUARES
    attempts = sorted(path.name for path in tmp_path.iterdir())
    assert attempts == ["0.0", "1.0", "2.0", "2.1", "3.0", "4.0", "5.0"]


def test_a_worker_killed_while_idle_is_replaced(two):
    used = {made for _, made in two.map(pid, range(8))}
    for process in used:
        os.kill(process, signal.SIGKILL)
    assert within(60, lambda: not any(is_alive(process) for process in used))
    assert sorted(two.map(square, range(6))) == SQUARES


def test_a_deadly_task_is_given_up_when_the_others_are_done(two, tmp_path):
    given, error = until_error(two.map(partial(die, tmp_path, {2}, 99), range(6)))
    assert sorted(given) == [row for row in SQUARES if row[0] != 2]
    assert len(list(tmp_path.glob("2.*"))) == MAX_DEATHS
    assert error.code == ExitCode.RESOURCES
    assert "task 3 of 6 (2)" in error.message
    assert "use fewer workers" in error.hint


def test_where_every_task_is_deadly_few_are_tried(two, tmp_path):
    given, error = until_error(two.map(partial(die, tmp_path, set(range(50)), 99), range(50)))
    assert given == []
    assert "of 50" in error.message
    tried = {path.name.split(".")[0] for path in tmp_path.iterdir()}
    assert len(tried) <= MAX_GIVEN_UP + 2  # those given up, and those of the two workers since


def test_an_error_for_the_user_crosses_the_border_whole(two):
    _, error = until_error(two.map(refuse, [3]))
    assert type(error) is TocsrError
    assert (error.message, error.hint, error.code) == ("no 3", "take 0", ExitCode.MODEL)


def test_any_other_error_comes_as_it_is_with_the_workers_traceback(two):
    with pytest.raises(ZeroDivisionError, match="division by zero") as caught:
        list(two.map(divide, [0]))
    assert "lightwork.py" in str(caught.value.__cause__)


def test_what_is_there_is_given_before_an_error_that_came_with_it(two):
    for _ in range(5):  # two finished tasks are found in any order
        results = two.map(refuse, [0, 0, 3])
        first = next(results)
        assert within(60, lambda: all(task.done() for task in two._running))
        rest, _ = until_error(results)
        assert sorted([first, *rest]) == [(0, 0), (1, 0)]


def test_what_cannot_be_pickled_is_said(two):
    with pytest.raises(AttributeError, match="Can't pickle local object"):
        list(two.map(lambda task: task, [0]))


def test_leaving_ends_workers_that_are_busy(tmp_path):
    with executor(2) as of_two:
        results = of_two.map(partial(sleep, tmp_path), [0, 1000, 1001])
        next(results)
        assert within(60, lambda: len(pids(tmp_path)) == 3)
    assert not any(is_alive(process) for process in pids(tmp_path))


def test_leaving_ends_workers_that_are_idle():
    with executor(2) as of_two:
        used = {made for _, made in of_two.map(pid, range(8))}
    assert not any(is_alive(process) for process in used)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill -9"])
def test_workers_end_with_their_caller(tmp_path, sent):
    notes = tmp_path / "notes"
    notes.mkdir()
    command = [sys.executable, lightwork.__file__, str(notes)]
    with (tmp_path / "said").open("w") as said:
        # in the background of a shell Ctrl-C would be ignored, and so by all that it starts
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        caller = subprocess.Popen(command, stderr=said, start_new_session=True)
        signal.signal(signal.SIGINT, before)
    assert within(60, lambda: len(pids(notes)) == 9)
    if sent == signal.SIGINT:
        os.killpg(caller.pid, sent)  # a terminal sends it to workers as well
    else:
        caller.send_signal(sent)
    caller.wait(30)
    assert within(30, lambda: not any(is_alive(process) for process in pids(notes)))
    assert (tmp_path / "said").read_text().count("Traceback") == (sent == signal.SIGINT)


@pytest.mark.parametrize("workers", [0, -1])
def test_there_is_at_least_one_worker(workers):
    with pytest.raises(TocsrError, match="at least 1"), executor(workers):
        pass


def test_an_address_that_is_none_is_refused():
    with pytest.raises(TocsrError, match="local, auto or ray://HOST:PORT, got 'here'"):
        executor(ray="here").__enter__()


def test_without_ray_installed_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TocsrError, match=r"pip install 'tocsr\[ray\]'"):
        executor(ray="local").__enter__()


def test_a_local_ray_that_loses_a_worker_gives_every_result(on_ray, tmp_path):
    work = partial(die, tmp_path, {2}, 1)
    assert sorted(on_ray.map(work, range(6))) == SQUARES
    assert (tmp_path / "2.1").exists()


def test_a_deadly_task_on_ray_is_given_up_when_the_others_are_done(on_ray, tmp_path):
    given, error = until_error(on_ray.map(partial(die, tmp_path, {2}, 99), range(6)))
    assert sorted(given) == [row for row in SQUARES if row[0] != 2]
    assert error.code == ExitCode.RESOURCES
    assert "task 3 of 6 (2)" in error.message


def test_an_error_for_the_user_comes_from_ray_whole(on_ray):
    _, error = until_error(on_ray.map(refuse, [3]))
    assert type(error) is TocsrError
    assert (error.message, error.hint, error.code) == ("no 3", "take 0", ExitCode.MODEL)


def test_a_map_on_ray_left_early_ends_its_tasks(on_ray, tmp_path):
    results = on_ray.map(partial(sleep, tmp_path), [1000, 0])
    assert next(results) == (1, 0)
    assert within(60, lambda: len(pids(tmp_path)) == 2)
    results.close()
    assert within(60, lambda: not is_alive(int((tmp_path / "1000.0").read_text())))
