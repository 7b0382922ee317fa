"""DELLA: drop entries at random, the smaller of a row more often than the larger."""

import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.drop import keep_below
from ledmerge.ops.per_model import numbers
from ledmerge.ops.rescale import to_whole_l1
from ledmerge.ops.row_ranks import row_ranks
from ledmerge.ops.survey import Survey
from ledmerge.types import Deltas, Draw, PerModel


def drop_by_rank(
    deltas: Deltas,
    *,
    density: PerModel,
    epsilon: PerModel,
    rescale: bool,
    random: Draw,
    survey: Survey,
) -> Deltas:
    """Each entry kept with a chance that rises with its rank in its row, and the rest scaled up.

    The chance goes linearly from density - epsilon for the smallest magnitude of a row to density +
    epsilon for the largest, cut off at 0 and 1; at density 0 and 1 all fall or stay. A vector is
    one row. Equal magnitudes rank by their place.

    Args:
        rescale: restore each model's L1 norm over the tensor.

    Raises:
        RecipeError: an epsilon is below 0.
    """
    if min(numbers(epsilon, len(deltas))) < 0:
        raise RecipeError(
            f"epsilon should be 0 or more, found {epsilon}; below 0 large changes would be dropped "
            "more often than small ones"
        )
    shares, widths = (numbers(option, len(deltas)) for option in (density, epsilon))
    chances = torch.ones_like(deltas)
    for i, (share, width) in enumerate(zip(shares, widths, strict=True)):
        if share < 1:
            chances[i] = _chances(deltas[i], share, width if share > 0 else 0.0)
    kept = keep_below(deltas, random(deltas), chances)
    return to_whole_l1(kept, deltas, survey) if rescale else kept


def _chances(delta: Tensor, share: float, width: float) -> Tensor:
    """The chance of each entry to stay, (*shape)."""
    if not delta.numel():
        return delta
    rows = delta.reshape(-1, delta.shape[-1]) if delta.ndim > 1 else delta.reshape(1, -1)
    ranks = row_ranks(rows)
    # A row of one entry has no smaller and no larger one: it stays with the middle chance.
    place = ranks.div_(rows.shape[1] - 1) if rows.shape[1] > 1 else ranks.add_(0.5)
    return place.mul_(2 * width).add_(share - width).clamp_(0, 1).view(delta.shape)
