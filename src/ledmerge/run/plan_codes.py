"""Finds out whether a plan's score sets are rank codes, and whether that goes with the rest."""

from collections.abc import Iterator, Sequence

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.run.planned import Plan


def plan_codes(plan: Plan, named: Sequence[tuple[Checkpoint, ...] | None]) -> bool:
    """Whether the score sets, there or still to be located, are rank codes.

    Sets of both kinds, a method that computes with scores, and vocabularies that move the rows of
    codes are problems.

    Args:
        named: the sets that the recipe names by folder, for each model.
    """
    found = list(_sets(plan, named))
    coded = [what for what, is_code in found if is_code]
    if not coded:
        return False
    values = [what for what, is_code in found if not is_code]
    method = plan.recipe.method
    if values:
        plan.problems.append(
            f"scores of {coded[0]} are rank codes, those of {values[0]} float32; locate all with "
            "one `store`, codes or float32"
        )
    if not method.takes_codes:
        plan.problems.append(
            f"{method.name} computes with the values of scores, and those of {coded[0]} are rank "
            "codes; locate them with 'store: float32'"
        )
    _check_rows(plan)
    return True


def is_coded(scores: Checkpoint) -> bool:
    """Whether a score set holds rank codes."""
    return any(entry.dtype == "U8" for entry in scores.entries.values())


def _sets(plan: Plan, named: Sequence[tuple[Checkpoint, ...] | None]) -> Iterator[tuple[str, bool]]:
    """Each score set by what a user knows it as, and whether it is, or will be, rank codes."""
    if plan.recipe.method.needs_grams:
        return
    for model, source, sets in zip(plan.models, plan.recipe.sources, named, strict=True):
        for scores in sets or ():
            yield str(scores.folder), is_coded(scores)
        if source is not None and source.data is not None:
            yield f"{model.name} on {source.data}", source.settings.store == "codes"


def _check_rows(plan: Plan) -> None:
    """Ranks within one tensor say nothing of one that has other rows, or has them elsewhere."""
    if plan.vocabulary is None:
        return
    moves_rows, scored_at = plan.vocabulary.moves_rows, plan.recipe.method.scored_at
    for model, source in zip(plan.models, plan.recipe.sources, strict=True):
        if source is None:
            continue
        places = {
            model.name: (model.reference, "model" in scored_at),
            plan.donor.name: (plan.donor.reference, "base" in scored_at),
        }
        for name, (reference, is_scored) in places.items():
            problem = (
                f"{name}: the rows of its tokens are not those of the result, and its scores are "
                "rank codes, which rank them among its own; locate with 'store: float32'"
            )
            if is_scored and problem not in plan.problems and moves_rows(reference):
                plan.problems.append(problem)
