"""Workers that share a list of tasks."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ledmerge.errors import LedmergeError, RecipeError
from ledmerge.run.workers import Workers, can_fork, portable

FORK = pytest.param(True, marks=pytest.mark.skipif(not can_fork(), reason="no fork here"))


@pytest.fixture(params=[FORK, False], ids=["processes", "threads"])
def fork(request):
    return request.param


@pytest.fixture
def start(fork):
    """Starts workers that are ended after the test."""
    started = []

    def start(number, work):
        started.append(Workers(number, lambda: work, fork=fork))
        return started[-1]

    yield start
    for workers in started:
        workers.close()


@pytest.mark.parametrize("number", [1, 3])
def test_every_task_is_done_once_and_what_is_told_is_heard(start, number):
    def work(task, tell):
        tell(task)
        return task * task

    workers, heard = start(number, work), []
    for _ in range(3):  # the workers are used again
        heard.clear()
        results = list(workers.each(range(200), heard.append))
        assert sorted(results) == [n * n for n in range(200)]
        assert sorted(heard) == list(range(200))


def test_several_work_at_a_time(start, fork):
    together = threading.Barrier(3, timeout=20)

    def work(task, tell):
        if not fork:  # processes share no barrier, but have numbers of their own
            together.wait()
        time.sleep(0.05)
        return os.getpid()

    processes = list(start(3, work).each(range(3), print))
    assert len(set(processes)) == (3 if fork else 1)


notes = pytest.mark.skipif(sys.version_info < (3, 11), reason="errors have no notes")


@notes
def test_the_first_error_is_raised_with_its_notes_and_stops_the_rest(start, tmp_path):
    def work(task, tell):
        if task == 5:
            error = RecipeError("task 5")
            error.add_note("while doing it")
            raise error
        time.sleep(0.001)
        (tmp_path / str(task)).touch()

    with pytest.raises(RecipeError, match="task 5") as raised:
        list(start(2, work).each(range(1000), print))
    assert "while doing it" in raised.value.__notes__
    assert len(list(tmp_path.iterdir())) < 100


@notes
def test_an_error_that_is_ours_says_where_it_was(start):
    def work(task, tell):
        return 1 // task

    with pytest.raises(ZeroDivisionError) as raised:
        list(start(2, work).each([0, 0], print))
    assert "in work" in raised.value.__notes__[-1]


def test_an_error_that_cannot_travel_is_told_in_words(start):
    class OddError(Exception):
        pass

    def work(task, tell):
        raise OddError("strange thing")

    with pytest.raises(RuntimeError, match="strange thing"):
        list(start(2, work).each([1], print))


@pytest.mark.parametrize("error", [OSError("no room"), BrokenPipeError("a pipe of its own")])
def test_errors_of_the_system_are_told_too(fork, error):
    def work(task, tell):
        raise error

    def make_work():
        raise error

    for make in (lambda: work, make_work):
        workers = Workers(2, make, fork=fork)
        with pytest.raises((OSError, RuntimeError), match=str(error)):
            list(workers.each([1, 2], print))
        workers.close()


def test_a_result_that_cannot_travel_is_an_error(start):
    with pytest.raises(Exception, match="pickle"):
        list(start(2, lambda task, tell: lambda: task).each([1], print))


@pytest.mark.skipif(not can_fork(), reason="no fork here")
def test_a_process_that_may_have_no_children_takes_threads():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert not pool.apply(can_fork)


def test_nothing_runs_on_after_the_end(start, tmp_path):
    def work(task, tell):
        (tmp_path / str(task)).touch()
        tell(task)
        time.sleep(0.001)

    workers = start(2, work)
    next(workers.each(range(100_000), lambda message: None))
    workers.close()
    done = len(list(tmp_path.iterdir()))
    time.sleep(0.05)
    assert len(list(tmp_path.iterdir())) == done < 1000


def test_an_error_of_the_system_stays_one_without_notes(monkeypatch):
    monkeypatch.setattr("ledmerge.run.workers.sys", SimpleNamespace(version_info=(3, 10, 13)))
    error = OSError(28, "No space left on device", "out")
    assert portable(error) is error
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        raise portable(ZeroDivisionError())


@pytest.mark.skipif(not can_fork(), reason="no fork here")
def test_a_worker_that_is_killed_is_an_error():
    def work(task, tell):
        os.kill(os.getpid(), signal.SIGKILL)

    workers = Workers(2, lambda: work, fork=True)
    with pytest.raises(LedmergeError, match=r"exit code -9.*--threads 1"):
        list(workers.each([1, 2], print))
    workers.close()


@pytest.mark.skipif(not can_fork(), reason="no fork here")
def test_workers_end_with_their_parent(tmp_path):
    def work(task, tell):
        (tmp_path / str(os.getpid())).touch()
        time.sleep(60)

    parent = os.fork()
    if parent == 0:
        list(Workers(2, lambda: work, fork=True).each([1, 2], print))
        os._exit(0)
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.01)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    for _ in range(500):
        if not any(_is_running(int(path.name)) for path in tmp_path.iterdir()):
            return
        time.sleep(0.01)
    raise AssertionError("workers outlived their parent")


def _is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        return state not in "ZX"
    except FileNotFoundError:
        return False
