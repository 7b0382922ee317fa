"""Score sets located on a Ray cluster: a task for each question, that is, for a model and its data.

Every task writes into a folder that all machines see, as `locate` does on one machine. One that is
done again, because its machine was lost, goes on with what was saved there.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ledmerge.checkpoint.lock import wait_until_free
from ledmerge.checkpoint.staging import partial_folder
from ledmerge.errors import InUseError, LedmergeError
from ledmerge.run.device import choose_device
from ledmerge.run.progress import Progress
from ledmerge.run.ray_workers import RayWorkers, cores_of_smallest, num_machines, slots
from ledmerge.run.score_question import ScoreQuestion
from ledmerge.run.score_store import provenance
from ledmerge.run.workers import Tell, Work

Locate = Callable[..., dict[str, Any]]
"""`locate_question`."""


def locate_on_ray(
    locate: Locate,
    questions: Mapping[Path, ScoreQuestion],
    *,
    keyed: bool = False,
    device: str,
    progress: Progress,
    **how: Any,
) -> dict[Path, dict[str, Any]]:
    """The provenance of every set, each located into its folder.

    A task has a GPU, or all the cores of a machine.

    Args:
        questions: by the folder that the scores go to.
        keyed: folders are named by the questions' keys, so that one which is there is the answer.
        how: other arguments of `locate_question`.

    Raises:
        LedmergeError: a task failed, or its folder does not show here.
    """
    where = choose_device(device)
    is_cpu = where.type == "cpu"
    cores = cores_of_smallest() if is_cpu else 1

    def make_work() -> Work:
        torch.set_num_threads(cores)

        def work(task: tuple[Path, ScoreQuestion], tell: Tell) -> tuple[Path, dict[str, Any]]:
            folder, question = task
            how_there = {**how, "device": where.type}  # the GPU that a task sees is its first
            return folder, _locate(locate, question, folder, keyed, how_there)

        return work

    number = num_machines() if is_cpu else slots(where)
    workers = RayWorkers(number, make_work, device=where, cores=cores)
    found: dict[Path, dict[str, Any]] = {}
    progress.start("locate on Ray", len(questions), "score sets")
    try:
        for folder, told in workers.each(questions.items(), lambda message: None):
            if not _shows(folder):
                raise LedmergeError(
                    f"{folder}: was located on another machine and is not there on this one; "
                    "choose a folder that all machines see (for a merge: LEDMERGE_CACHE)"
                )
            found[folder] = told
            progress.advance()
    finally:
        workers.close()
    return found


def _shows(folder: Path) -> bool:
    try:  # by listing: network file systems remember for a while that a name was not there
        return folder in folder.parent.iterdir()
    except FileNotFoundError:
        return False


def _locate(
    locate: Locate, question: ScoreQuestion, folder: Path, keyed: bool, how: dict[str, Any]
) -> dict[str, Any]:
    """Locate, or go on with what a task that was lost has left, when its process has let go."""
    while True:
        if keyed and folder.is_dir():
            return provenance(folder)
        try:
            return locate(question, folder, resume=True, **how)
        except InUseError:
            wait_until_free(partial_folder(folder), lambda: None)
