"""Threads that share a list of jobs."""

import threading
import time

import pytest

from ledmerge.run.workers import Workers


@pytest.fixture(params=[1, 3])
def workers(request):
    workers = Workers(request.param)
    yield workers
    workers.close()


def test_every_job_is_done_once_on_a_numbered_thread(workers):
    for _ in range(3):  # the threads are used again
        done = []

        def work(thread: int, job: int, done: list = done) -> None:
            done.append((thread, job))

        workers.each(range(200), work)
        assert sorted(job for _, job in done) == list(range(200))
        assert {thread for thread, _ in done} <= set(range(workers.threads))


def test_a_number_belongs_to_one_job_at_a_time(workers):
    busy: set[int] = set()
    clashes = []

    def work(thread: int, job: int) -> None:
        if thread in busy:
            clashes.append(job)
        busy.add(thread)
        time.sleep(0.0005)
        busy.discard(thread)

    workers.each(range(60), work)
    assert not clashes


def test_the_first_error_is_raised_and_stops_the_rest(workers):
    done = []

    def work(thread: int, job: int) -> None:
        if job == 5:
            raise ValueError("job 5")
        time.sleep(0.001)
        done.append(job)

    with pytest.raises(ValueError, match="job 5"):
        workers.each(range(1000), work)
    assert len(done) < 100
    workers.each(range(3), lambda thread, job: done.append(job))  # still fit for use


def test_no_job_runs_on_after_an_interruption(workers, monkeypatch):
    running = threading.Event()

    def interrupted(futures, return_when=None):
        if return_when:
            running.wait(10)
            raise KeyboardInterrupt
        return wait(futures)

    from ledmerge.run import workers as module

    wait = module.wait
    monkeypatch.setattr(module, "wait", interrupted)
    done = []

    def work(thread: int, job: int) -> None:
        running.set()
        time.sleep(0.001)
        done.append(job)

    with pytest.raises(KeyboardInterrupt):
        workers.each(range(100_000), work)
    stopped_at = len(done)
    time.sleep(0.02)
    assert len(done) == stopped_at < 100_000
