"""What the loop reads a plan's blocks from."""

from ledmerge.run.lane import Source
from ledmerge.run.planned import Plan


def sources_of(plan: Plan) -> list[Source]:
    """What each block is read from: the models, then the experts' and the base's scores.

    Of a plan with slices: those of one after the other.
    """
    if plan.slices:
        return [source for part in plan.slices for source in sources_of(part)]
    models = [Source(model.checkpoint, model.name) for model in plan.inputs]
    labels = ("the scores of", "the base's scores for")[: plan.recipe.method.num_score_sets]
    scores = [
        Source(sets[place], f"{label} {model.name}")
        for place, label in enumerate(labels)
        for sets, model in zip(plan.scores, plan.models, strict=True)
        if sets is not None
    ]
    return [*models, *scores]
