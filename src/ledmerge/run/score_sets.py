"""The score sets a merge reads: named by the recipe, or located here and kept by content."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.digest import cache_folder, cached_checkpoint_digest
from ledmerge.checkpoint.lock import have_made
from ledmerge.checkpoint.staging import partial_folder
from ledmerge.errors import NonFiniteError, ScoreError
from ledmerge.methods._catalog import Method
from ledmerge.models.folder import ModelFolder
from ledmerge.run.locate import locate_question
from ledmerge.run.plan_scores import check_pair, check_set
from ledmerge.run.plan_tensors import check_scores
from ledmerge.run.planned import Plan
from ledmerge.run.progress import Progress
from ledmerge.run.ray_locate import locate_on_ray
from ledmerge.run.ray_workers import is_ray
from ledmerge.run.score_question import ScoreQuestion
from ledmerge.run.score_store import NONFINITE, made_for_another, open_scores, provenance

WAITING = "another process locates the same scores; waiting for them"


def gather_scores(plan: Plan, *, engine: str = "local", progress: Progress, **how: Any) -> None:
    """Complete `plan.scores`: check the sets that are named, locate those that are missing.

    Located sets live in the cache folder under a digest of everything that decides them, so another
    merge of the same models and data, with other densities, finds them there.

    Args:
        engine: "ray" to have all that is missing located at once, by a Ray cluster.
        how: `locate`'s device, memory, trust_remote_code and allow_nonfinite.

    Raises:
        ScoreError: a set was made for another model, or the two of a pair for different data.
        NonFiniteError: scores are NaN or infinite.
    """
    if is_ray(engine):
        _locate_on_ray(plan, progress, how)
    located: dict[str, Checkpoint] = {}
    asked = {question.key: question for question in plan.all_questions}
    for key, question in asked.items():
        alike = [_place(each) for each in asked.values() if _form(each) == _form(question)]
        located[key] = _located(question, progress, {**how, "alike": alike})
    for part in plan.parts:
        _gather(part, located, how.get("allow_nonfinite", False))
    check_scores(plan)


def _gather(plan: Plan, located: Mapping[str, Checkpoint], allow_nonfinite: bool) -> None:
    """Complete the scores of one part from the sets located, by the keys of their questions."""
    for place, (model, asked) in enumerate(zip(plan.models, plan.questions, strict=True)):
        if asked is not None:
            found = tuple(located[question.key] for question in asked)
            plan.scores[place] = plan.aligned(model, found)
        if (sets := plan.scores[place]) is not None:
            places = {"model": model.original, "base": plan.donor.original}
            scored = [places[at] for at in plan.recipe.method.scored_at]
            _check_sets(scored, sets, plan.recipe.method, allow_nonfinite)


def _place(question: ScoreQuestion) -> Path:
    return cache_folder() / "scores" / question.key


def _form(question: ScoreQuestion) -> tuple[Any, ...]:
    """What decides how large a score set is."""
    folder, settings = question.folder, question.settings
    shapes = {name: entry.shape for name, entry in folder.checkpoint.entries.items()}
    return settings.score, settings.store, folder.is_tied, shapes


def _locate_on_ray(plan: Plan, progress: Progress, how: dict[str, Any]) -> None:
    """Locate what the plan asks for and the cache lacks, each set by a task of its own."""
    missing = {_place(each): each for each in plan.all_questions if not _place(each).is_dir()}
    if missing:
        locate_on_ray(
            locate_question, missing, keyed=True, overwrite=True, progress=progress, **how
        )


def _located(question: ScoreQuestion, progress: Progress, how: dict[str, Any]) -> Checkpoint:
    """The answer to a question, from the cache or made now."""
    folder = _place(question)
    # An interrupted run is taken up if it was the same work, else it is in the way.
    how = {"resume": True, "overwrite": True, "progress": progress, **how}
    have_made(
        folder.is_dir,
        partial(locate_question, question, folder, **how),
        partial_folder(folder),
        lambda: progress.note(WAITING),
    )
    return open_scores(folder)


def _check_sets(
    models: Sequence[ModelFolder],
    sets: tuple[Checkpoint, ...],
    method: Method,
    allow_nonfinite: bool,
) -> None:
    """Refuse sets that were not made for these models, or not by a rule for this method, and codes
    of scores that were not finite: nothing in them would show it.
    """
    for model, scores in zip(models, sets, strict=True):
        check_set(scores, method)
        found = provenance(scores.folder)
        if (names := found.get(NONFINITE)) and not allow_nonfinite:
            raise NonFiniteError(
                f"{scores.folder}: the scores of '{names[0]}' held NaN or infinite values, which "
                "locating was told to let through; remove this folder and locate again, or run it "
                "again with --resume --allow-nonfinite to take their codes as they are"
            )
        digest = cached_checkpoint_digest(model.checkpoint)
        if problem := made_for_another(scores.folder, found, model.name, digest):
            raise ScoreError(problem)
    check_pair(sets)
