"""Workers on the machines of a Ray cluster: the same interface as `run/workers.py`.

A task is pickled with all it needs, opens the inputs itself from a folder that every machine sees,
and writes into the files that were laid out for it. So a task that is done again, because its
machine was lost, writes the same bytes to the same places.
"""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import ledmerge
from ledmerge.errors import LedmergeError, RecipeError, did_you_mean
from ledmerge.run.workers import Tell, Work, portable

ENGINES = ("local", "ray")

RETRIES = 3
"""How many times a task is begun again whose process or machine was lost."""

GRACE = 10.0
"""Seconds that tasks have to end by themselves after Ctrl-C or an error, before they are killed."""

Outcome = tuple[str, Any, list[Any]]
"""done or failed; the result or the error; what the task told."""


def is_ray(engine: str) -> bool:
    """Whether work is to be given to Ray.

    Raises:
        RecipeError: there is no such engine.
    """
    if engine not in ENGINES:
        raise RecipeError(f"engine '{engine}' is not known{did_you_mean(engine, ENGINES)}")
    return engine == "ray"


def slots(device: torch.device) -> int:
    """How many tasks the whole cluster does at a time: one for each core, or for each GPU."""
    kind = "GPU" if device.type == "cuda" else "CPU"
    number = int(_connected().cluster_resources().get(kind, 0))
    if number < 1:
        raise LedmergeError(
            f"Ray's cluster offers no {kind}; start its nodes with some, or choose another --device"
        )
    return number


def num_machines() -> int:
    """How many machines of the cluster do tasks."""
    return len(_cores_of_machines())


def cores_of_smallest() -> int:
    """Cores of the machine that has the fewest."""
    return min(_cores_of_machines())


class RayWorkers:
    """Does tasks on a Ray cluster, at most `number` at a time.

    Args:
        make_work: called once for each task, in the process that does it.
        cores: that a task keeps busy.
    """

    def __init__(
        self,
        number: int,
        make_work: Callable[[], Work],
        *,
        device: torch.device,
        cores: int = 1,
    ):
        self._ray, self._number = _connected(), number
        gpus = 1 if device.type == "cuda" else 0
        self._do = self._ray.remote(_do).options(
            num_cpus=cores, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )
        # Pickled by us: what Ray unpickles lies in memory that may not be written to.
        self._make_work = self._ray.put(self._ray.cloudpickle.dumps(make_work))
        self._running: list[Any] = []

    def __len__(self) -> int:
        return self._number

    def each(self, tasks: Iterable[Any], hear: Callable[[Any], None]) -> Iterator[Any]:
        """See `Workers.each`; what a task told is heard when it is done.

        Raises:
            LedmergeError: a task was lost more often than it is begun again.
        """
        queue = iter(tasks)
        for task in islice(queue, self._number):
            self._start(task)
        while self._running:
            (reference,), self._running = self._ray.wait(self._running)
            kind, value, told = self._outcome(reference)
            for task in islice(queue, 1 if kind == "done" else 0):
                self._start(task)
            for message in told:
                hear(message)
            if kind == "failed":
                raise value
            yield value

    def _start(self, task: Any) -> None:
        blob = self._ray.cloudpickle.dumps(task)
        self._running.append(self._do.remote(self._make_work, blob, str(Path.cwd()), _versions()))

    def _outcome(self, reference: Any) -> Outcome:
        try:
            return pickle.loads(self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [""])[-1][:300]
            raise LedmergeError(
                f"a task of Ray ended before its work did ({type(error).__name__}: {reason}); see "
                "that every machine has ledmerge, memory and the shared folder"
            ) from error

    def close(self) -> None:
        """End all tasks: begin no other, and kill those that take long to end by themselves.

        Not at once: Ray (2.60) aborts this process where a task ends just as it is cancelled.
        """
        for end in (lambda task: None, partial(self._ray.cancel, force=True)):
            for task in self._running:
                end(task)
            if self._running:
                number = len(self._running)
                _, self._running = self._ray.wait(self._running, num_returns=number, timeout=GRACE)


def _do(make_work: bytes, task: bytes, folder: str, versions: dict[str, str]) -> bytes:
    """What a process of the cluster does: one task; returns an `Outcome`.

    Args:
        folder: where paths of the task start from, if they do not start from the root.
        versions: of whoever gave the task.
    """
    told: list[Any] = []
    tell: Tell = told.append
    try:
        _settle_in(folder, versions)
        result = pickle.loads(make_work)()(pickle.loads(task), tell)
        return pickle.dumps(("done", result, told))
    except Exception as error:
        return pickle.dumps(("failed", portable(error), told))


def _settle_in(folder: str, versions: dict[str, str]) -> None:
    machine = f"machine '{os.uname().nodename}' of Ray's cluster"
    if versions != _versions():
        raise LedmergeError(
            f"{machine} has {_versions()}, this one has {versions}; install the same on all"
        )
    try:
        os.chdir(folder)
    except OSError as error:
        raise LedmergeError(
            f"{machine} cannot enter {folder} ({error.strerror}); work in a folder that all "
            "machines see under one path"
        ) from error


def _versions() -> dict[str, str]:
    return {"ledmerge": ledmerge.__version__, "torch": torch.__version__}


def _cores_of_machines() -> list[int]:
    nodes = [node["Resources"] for node in _connected().nodes() if node["Alive"]]
    return [int(found["CPU"]) for found in nodes if found.get("CPU", 0) >= 1] or [1]


def _connected() -> ModuleType:
    """Ray, connected to the cluster of RAY_ADDRESS or of this machine, or to a new one.

    Raises:
        LedmergeError: Ray is not installed, or the cluster does not answer.
    """
    # Ray would tell its makers about every cluster that is started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise LedmergeError(
            "the engine 'ray' needs Ray, which is not installed; run pip install 'ray>=2.40'"
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(logging_level="ERROR", log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise LedmergeError(
                f"Ray's cluster does not answer ({error}); start it (`ray start`), or set "
                "RAY_ADDRESS to one that runs"
            ) from error
    return ray
