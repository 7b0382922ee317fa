"""The score sets a merge reads: named by the recipe, or located here and kept by content."""

import json
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ledmerge.checkpoint.digest import cache_folder, cached_checkpoint_digest
from ledmerge.errors import ScoreError
from ledmerge.models.folder import ModelFolder
from ledmerge.recipe.recipe import Recipe, ScoreSource
from ledmerge.run.plan import Plan, check_scores
from ledmerge.run.progress import Progress
from ledmerge.run.score_question import read_question
from ledmerge.run.score_store import MARK


def gather_scores(plan: Plan, *, progress: Progress, **how: Any) -> None:
    """Complete `plan.scores`: check the sets that are named, locate those that are missing.

    Located sets live in the cache folder under a digest of everything that decides them, so another
    merge of the same models and data, with other densities, finds them there.

    Args:
        how: `locate`'s device, memory, trust_remote_code and allow_nonfinite.

    Raises:
        ScoreError: a set was made for another model, or the two of a pair for different data.
    """
    for place, (model, source) in enumerate(zip(plan.models, plan.recipe.sources, strict=True)):
        if source is None:
            continue
        pair = plan.scores[place] or _located(plan.recipe, plan.donor, model, source, progress, how)
        _check_pair(plan.donor, model, pair)
        plan.scores[place] = pair
    check_scores(plan)


def _located(
    recipe: Recipe,
    base: ModelFolder,
    expert: ModelFolder,
    source: ScoreSource,
    progress: Progress,
    how: dict[str, Any],
) -> tuple[Checkpoint, Checkpoint]:
    """The expert's and the base's scores on the expert's data, from the cache or made now."""
    from ledmerge.run.locate import locate  # brings transformers, which takes seconds

    assert source.data is not None
    data = source.data if source.data.startswith("hub:") else str(recipe.find(source.data))
    settings = source.settings
    if settings.template not in ("auto", "none"):
        found = str(recipe.find(settings.template))
        settings = settings.model_copy(update={"template": found})

    def scores_of(model: ModelFolder, other: ModelFolder) -> Checkpoint:
        reference = other if settings.score == "delta_snip" else None
        key = read_question(model, data, settings, reference).key
        folder = cache_folder() / "scores" / key
        if not folder.is_dir():
            locate(
                model,
                folder,
                data,
                settings=settings,
                reference=reference,
                resume=True,
                progress=progress,
                **how,
            )
        return open_checkpoint(folder, stem="scores")

    return scores_of(expert, base), scores_of(base, expert)


def _check_pair(
    base: ModelFolder, expert: ModelFolder, pair: tuple[Checkpoint, Checkpoint]
) -> None:
    at_expert, at_base = (provenance(scores.folder) for scores in pair)
    for model, found, scores in ((expert, at_expert, pair[0]), (base, at_base, pair[1])):
        if found["model"]["digest"] != cached_checkpoint_digest(model.checkpoint):
            raise ScoreError(
                f"{scores.folder}: these scores were made for '{found['model']['name']}' with "
                f"other weights than {model.name} has now; run `ledmerge locate` on {model.name}"
            )
    for what, ours, theirs in (
        ("data", at_expert["data"]["rows"], at_base["data"]["rows"]),
        ("rule", at_expert["score"], at_base["score"]),
    ):
        if ours != theirs:
            raise ScoreError(
                f"{pair[0].folder} and {pair[1].folder}: the {what} of the expert's scores and of "
                f"the base's differ ({ours} and {theirs}); locate both alike"
            )


def provenance(folder: Path) -> dict[str, Any]:
    """What `scores.json` says of a score set.

    Raises:
        ScoreError: there is none that can be read.
    """
    try:
        found = json.loads((folder / MARK).read_text(encoding="utf-8"))
        _ = found["model"]["digest"], found["model"]["name"], found["data"]["rows"], found["score"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ScoreError(f"{folder}: no readable {MARK} ({error!r}); not a score folder") from error
    return found
