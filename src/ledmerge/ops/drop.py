"""DARE: drop entries of a change at random and make up for them."""

from torch import Tensor

from ledmerge.ops import fused
from ledmerge.ops.consensus import Convention
from ledmerge.ops.per_model import column
from ledmerge.ops.rescale import to_whole_l1
from ledmerge.ops.survey import Survey
from ledmerge.types import Deltas, Draw, PerModel


def drop_and_rescale(
    deltas: Deltas,
    *,
    density: PerModel,
    rescale: bool,
    convention: Convention,
    random: Draw,
    survey: Survey,
) -> Deltas:
    """Each entry kept with probability `density`, and the rest scaled up.

    Args:
        density: chance of an entry to stay, in [0, 1]; DARE's drop rate p is 1 - density.
        rescale: make up for what was dropped.
        convention: mergekit scales to the L1 norm of the whole change, per tensor; the paper
            divides by the density, which keeps the expectation of every entry.
    """
    keep_chance = column(density, deltas)
    kept = keep_below(deltas, random(deltas), keep_chance)
    if not rescale:
        return kept
    if convention == "paper":
        return kept / (keep_chance + (keep_chance == 0).float())
    return to_whole_l1(kept, deltas, survey)


def keep_below(deltas: Deltas, drawn: Tensor, chances: Tensor) -> Deltas:
    """The entries whose number is below their chance, 0 elsewhere.

    Args:
        chances: (model, 1, ..., 1), or one for each entry.
    """
    if fused.is_fusible(deltas, drawn):
        return fused.keep_below(deltas, drawn, chances)
    return deltas * (drawn < chances).float()
