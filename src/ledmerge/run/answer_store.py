"""Answers kept by content: a second question of the same kind is not asked again."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.digest import cache_folder, digest_text
from ledmerge.checkpoint.lock import have_made
from ledmerge.checkpoint.staging import Staging, partial_folder
from ledmerge.run.progress import Progress

_MARK = "answers.json"

WAITING = "another process asks the same questions; waiting for the answers"


def collect(
    facts: dict[str, Any],
    batches: Callable[[], Sequence[Sequence[int]]],
    answer: Callable[[Sequence[int]], Sequence[Any]],
    *,
    what: str,
    progress: Progress,
) -> list[Any]:
    """The answers to numbered questions, in order: kept ones, or made now, batch by batch.

    They live in the cache folder under a digest of `facts`. An interrupted run goes on after its
    last whole batch; where another process is at it, its answers are waited for. Kept ones that
    cannot be read are made again.

    Args:
        facts: everything that decides the answers.
        batches: gives the numbers that are answered together; called only where some are missing.
        answer: gives a batch's answers, as JSON has them.
        what: is shown while it runs.
    """
    key = digest_text(json.dumps(facts, sort_keys=True))
    folder = cache_folder() / "answers" / key
    have_made(
        lambda: _kept(folder) is not None,
        partial(_make, folder, key, batches, answer, what, progress),
        partial_folder(folder),
        lambda: progress.note(WAITING),
    )
    answers = _kept(folder)
    assert answers is not None, f"{folder}: just made"
    return answers


def _kept(folder: Path) -> list[Any] | None:
    """The answers that lie in a folder of the cache; None where there are none, or damaged ones."""
    try:
        found = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _make(
    folder: Path,
    key: str,
    batches: Callable[[], Sequence[Sequence[int]]],
    answer: Callable[[Sequence[int]], Sequence[Any]],
    what: str,
    progress: Progress,
) -> None:
    """Have every question answered, and keep that in `folder`; see `collect`."""
    # An interrupted run is taken up if it was the same work, else it is in the way.
    with Staging(folder, key, marks=(_MARK,), resume=True, overwrite=True) as staging:
        found = {place: said for line in staging.finished for place, said in line["answers"]}
        all_batches = batches()
        total = sum(map(len, all_batches))
        progress.start(what, total, "answers", len(found))
        for batch in all_batches:
            if all(place in found for place in batch):
                continue
            answers = list(zip(batch, answer(batch), strict=True))
            staging.note({"answers": answers})
            found.update(answers)
            progress.advance(len(batch))
        text = json.dumps([found[place] for place in range(total)])
        (staging.folder / _MARK).write_text(text, encoding="utf-8")
        staging.publish()
