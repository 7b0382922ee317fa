"""Threads that share a list of blocks."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import TypeVar

Job = TypeVar("Job")


class Workers:
    """A fixed number of threads; `each` gives every job to whichever is free.

    The first error stops the others at their next job and is raised; so does Ctrl-C.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ledmerge")

    def each(self, jobs: Sequence[Job], work: Callable[[int, Job], None]) -> None:
        """Call `work(thread number, job)` for every job; a single one here, without a switch."""
        if len(jobs) == 1:
            work(0, jobs[0])
            return
        queue, lock, stop = iter(jobs), Lock(), Event()
        end = object()

        def run(thread: int) -> None:
            while not stop.is_set():
                with lock:
                    job = next(queue, end)
                if job is end:
                    return
                work(thread, job)  # type: ignore[arg-type]

        futures = [self._pool.submit(run, thread) for thread in range(self.threads)]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            wait(futures)
        for future in futures:
            future.result()

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(wait=True)
