"""Where the scores of each expert come from, and what a guard keeps by them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import Method
from ledmerge.methods._guard import Guard
from ledmerge.recipe.options import Expert, place_of
from ledmerge.recipe.read import validated
from ledmerge.recipe.schema import GuardEntry, ModelEntry
from ledmerge.recipe.settings import LocateSettings

DEFAULTS = LocateSettings()


@dataclass(frozen=True)
class ScoreSource:
    """Where an expert's score sets come from: folders, or data to locate on.

    `scores` and `base_scores` are set only for a method that asks for scores there.
    """

    scores: str | None = None
    base_scores: str | None = None
    data: str | None = None
    settings: LocateSettings = DEFAULTS

    @property
    def folders(self) -> tuple[str, ...]:
        """The score folders that the recipe names: at the expert, at the base."""
        return tuple(folder for folder in (self.scores, self.base_scores) if folder)


def read_guard(
    entry: GuardEntry | None,
    base: str | None,
    experts: Sequence[Expert],
    method: Method,
    problems: list[str],
) -> Guard | None:
    """The guard with its model's place; what it cannot keep is a problem."""
    if entry is None:
        return None
    if method.needs_grams or method.keeps_masks:
        reason = (
            f"reads scores of entries, and {method.name} Gram matrices; a model has one kind"
            if method.needs_grams
            else f"{method.name} keeps masks of its own merge, which a guard changes"
        )
        after = "linear" if entry.keep != "base" else "task_arithmetic"
        problems.append(
            f"guard: {reason}. Guard the result in a recipe of its own: {after} of it at weight 1 "
            f"and of '{entry.scores}' at weight 0"
        )
    place = place_of(entry.scores, experts, "guard.scores", problems)
    if place is None:
        return None
    keep: Literal["model", "base"] = "model"
    if entry.keep == "base":
        keep = "base"
        if base is None or (method.inputs == "models" and not method.may_have_base):
            problems.append(
                f"guard.keep: {method.name} is given no base; keep '{entry.scores}', or choose a "
                "method that works on a base"
            )
    elif place_of(entry.keep, experts, "guard.keep", problems) != place:
        problems.append(f"guard.keep: expected 'base' or '{entry.scores}', found '{entry.keep}'")
    return Guard(place, entry.density, keep)


def read_source(
    method: Method,
    asker: str,
    where: str,
    entry: ModelEntry,
    common: LocateSettings,
    problems: list[str],
) -> ScoreSource | None:
    """Where the expert's scores come from; `asker` is who needs them, for messages."""
    places = method.scored_at
    named = ScoreSource(
        entry.scores if "model" in places else None,
        entry.base_scores if "base" in places else None,
    )
    keys = " and ".join({"model": "'scores'", "base": "'base_scores'"}[at] for at in places)
    if named.folders and len(named.folders) == len(places) and not entry.locate:
        return named
    if named.folders:
        together = " together" if len(places) > 1 else ""
        problems.append(f"{where}: give {keys}{together}, or 'locate' with 'data', not a mix")
        return None
    if entry.locate is None:
        what, how = ("Gram matrices", " --score gram") if method.needs_grams else ("scores", "")
        problems.append(
            f"{where}: {asker} needs {what}; give 'locate: {{data: FILE}}', or {keys} made "
            f"by `ledmerge locate{how}`"
        )
        return None
    own = entry.locate.model_extra or {}
    try:
        settings = validated(
            LocateSettings,
            {**common.model_dump(), **own},
            lambda at: f"{where}.locate.{at}" if at else f"{where}.locate",
        )
    except RecipeError as error:
        problems += str(error).splitlines()
        return None
    is_written = "score" in own or "score" in common.model_fields_set
    if method.needs_grams and not is_written:
        settings = settings.model_copy(update={"score": "gram"})
    elif (settings.score == "gram") != method.needs_grams:
        wanted = "gram; leave it out" if method.needs_grams else "a rule that scores entries"
        problems.append(f"{where}.locate.score: found {settings.score}, and {asker} needs {wanted}")
    return ScoreSource(data=entry.locate.data, settings=settings)
