"""What the loop reads a plan's blocks from."""

from pathlib import Path

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.checkpoint.files import Stamp
from ledmerge.errors import CheckpointError
from ledmerge.run.planned import Plan
from ledmerge.run.reader import Source


def sources_of(plan: Plan) -> list[Source]:
    """What each block is read from: the models, then the experts' and the base's score sets.

    Of a plan with slices: those of one after the other.
    """
    if plan.slices:
        return [source for part in plan.slices for source in sources_of(part)]
    method = plan.recipe.method
    models = [Source(model.checkpoint, model.name) for model in plan.inputs]
    what = "Gram matrices" if method.needs_grams else "scores"
    labels = {"model": f"the {what} of", "base": f"the base's {what} for"}
    scores = [
        Source(sets[place], f"{labels[at]} {model.name}")
        for place, at in enumerate(method.scored_at)
        for sets, model in zip(plan.scores, plan.models, strict=True)
        if sets is not None
    ]
    return [*models, *scores]


def inputs_of(plan: Plan) -> list[Source]:
    """Everything that decides the weights: the sources, and the models tensors are kept from."""
    sources = sources_of(plan)
    known = {id(source.checkpoint) for source in sources}
    others = {id(m.checkpoint): m for part in plan.parts for m in part.givers.values()}
    return [
        *sources,
        *(Source(m.checkpoint, m.name) for place, m in others.items() if place not in known),
    ]


Stamps = list[tuple[Checkpoint, Path, Stamp]]
"""Files that something is read of, and what identified each at some moment."""


def stamps_of(plan: Plan) -> Stamps:
    """What identifies each file of the inputs now."""
    checkpoints = [source.checkpoint for source in inputs_of(plan)]
    return [(each, path, each.stamp(path)) for each in checkpoints for path in each.files()]


def check_unchanged(stamps: Stamps) -> None:
    """Raise CheckpointError where a file is no longer what it was."""
    for checkpoint, path, stamp in stamps:
        if checkpoint.stamp(path) != stamp:
            raise CheckpointError(
                f"{path}: changed while it was read, so the result would be part old, part new; "
                "start again with --overwrite, when nobody writes there"
            )
