"""Workers that do tasks side by side: processes where they can be forked, else threads.

A method is a dozen short calls a block, and between any two of them a thread needs the
interpreter's lock: two threads merged hardly faster than one, two processes nearly twice as fast.
A fork shares what is loaded already, so it costs neither seconds nor much memory.
"""

import ctypes
import multiprocessing
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ledmerge.errors import LedmergeError
from ledmerge.run.heap import keep_freed

Tell = Callable[[Any], None]
"""Says something to whoever waits for the results, while the task is being done."""

Work = Callable[[Any, Tell], Any]
"""Does a task and returns its result; all three are pickled on their way."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)

_STARTING = threading.Lock()
"""Two threads of one program that fork at a time would give each other's pipes to their workers,
and a worker's death would not show."""


def can_fork() -> bool:
    """Whether processes can be forked: macOS's own libraries do not bear it, and a process of a
    `multiprocessing.Pool` may have none.
    """
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


class _NobodyListensError(Exception):
    """The other end of the pipe is closed."""


class Workers:
    """A fixed number of workers; a single one is the thread that asks.

    Args:
        make_work: called once by each worker, for a `Work` of its own.
        fork: processes instead of threads.
    """

    def __init__(self, number: int, make_work: Callable[[], Work], *, fork: bool):
        self._ours: list[Connection] = []
        self._workers: list[Any] = []
        self._alone = make_work() if number < 2 else None
        try:
            for _ in range(number if number > 1 else 0):
                with _STARTING:
                    self._start(make_work, fork)
        except OSError as error:
            self.close()
            raise LedmergeError(
                f"a worker cannot be started ({error.strerror}); run with fewer --threads"
            ) from error

    def _start(self, make_work: Callable[[], Work], fork: bool) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._ours.append(ours)
        if fork:
            strangers = list(self._ours)
            worker: Any = multiprocessing.get_context("fork").Process(
                target=_serve_alone, args=(theirs, make_work, strangers), daemon=True
            )
        else:
            worker = threading.Thread(target=_serve, args=(theirs, make_work), daemon=True)
        with warnings.catch_warnings():
            # Python 3.12 warns of other threads at a fork: ours hold no lock that a worker needs,
            # since workers neither print nor load anything.
            warnings.simplefilter("ignore", DeprecationWarning)
            worker.start()
        if fork:
            theirs.close()
        self._workers.append(worker)

    def __len__(self) -> int:
        return max(1, len(self._workers))

    def each(self, tasks: Iterable[Any], hear: Callable[[Any], None]) -> Iterator[Any]:
        """The result of every task, as they are done.

        Args:
            hear: given what workers tell on the way, in this thread.

        Raises:
            Exception: the first that a task raised; the others are not begun.
            LedmergeError: a worker was killed.
        """
        if self._alone:
            for task in tasks:
                yield self._alone(task, hear)
            return
        queue, busy = iter(tasks), 0
        for connection in self._ours:
            busy += self._give(connection, queue)
        while busy:
            for connection in wait(self._ours):
                assert isinstance(connection, Connection)
                kind, value = self._receive(connection)
                if kind == "told":
                    hear(value)
                elif kind == "failed":
                    raise value
                else:
                    busy += self._give(connection, queue) - 1
                    yield value

    def _receive(self, connection: Connection) -> tuple[str, Any]:
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            raise self._ended(connection) from error

    def _give(self, connection: Connection, queue: Iterator[Any]) -> int:
        """Send the next task, if there is one; how many were sent."""
        for task in queue:
            try:
                connection.send(task)
            except OSError as error:
                raise self._ended(connection) from error
            return 1
        return 0

    def _ended(self, connection: Connection) -> LedmergeError:
        worker = self._workers[self._ours.index(connection)]
        worker.join(5)
        code = getattr(worker, "exitcode", None)
        killed = code == -signal.SIGKILL
        return LedmergeError(
            f"a worker ended before its work did (exit code {code})"
            + ("; if the system killed it for want of memory, use --threads 1" if killed else "")
        )

    def close(self) -> None:
        """End all workers, whatever they are at."""
        for connection in self._ours:
            connection.close()
        for worker in self._workers:
            if isinstance(worker, BaseProcess):
                worker.terminate()
            worker.join()


def _serve_alone(
    connection: Connection, make_work: Callable[[], Work], strangers: list[Connection]
) -> None:
    """What a forked process does."""
    for other in strangers:  # or they would stay open when their owner is gone
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    keep_freed()
    _serve(connection, make_work)


def _serve(connection: Connection, make_work: Callable[[], Work]) -> None:
    """Do tasks until the other end is closed."""

    def tell(message: Any) -> None:
        try:
            connection.send(("told", message))
        except OSError as error:
            raise _NobodyListensError from error

    work = None
    try:
        while True:
            task = connection.recv()
            try:
                work = work or make_work()
                answer = pickle.dumps(("done", work(task, tell)))
            except _NobodyListensError:
                return
            except Exception as error:
                answer = pickle.dumps(("failed", portable(error)))
            connection.send_bytes(answer)
    except (EOFError, OSError):  # nobody listens any more
        return
    finally:
        connection.close()


def portable(error: Exception) -> Exception:
    """The error, with its traceback as a note, or one that says the same and can be pickled."""
    told = "".join(traceback.format_exception(error))
    if not isinstance(error, LedmergeError):
        if sys.version_info >= (3, 11):
            error.add_note(told)
        elif not isinstance(error, OSError):  # of which one line says enough
            return RuntimeError(told)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(told)
    return error
