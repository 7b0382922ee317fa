"""OBIM: each model writes its most salient changes where no model before it has written."""

from ledmerge.ops.consensus import merge_changes
from ledmerge.ops.disjoint import figures, first_highest
from ledmerge.ops.per_model import numbers
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Deltas, Grain, ModelOrder, PerModel, Ranked, Record, Weight, ignore

GRAIN: Grain = "entry"


def obim(
    base: Weight,
    deltas: Deltas,
    *,
    scores: Ranked,
    density: PerModel,
    weight: PerModel = 1.0,
    priority: ModelOrder = (),
    survey: Survey = WHOLE,
    record: Record = ignore,
) -> Weight:
    """base + sum_i w_i m_i * delta_i, m_i = top(s_i) without what models before i have taken.

    1. Saliency (`score: obim`): s_i = 1/2 sum_x x_j^2 delta_i^2, the layer's squared output error
       if the change were undone. Of each model the `density` most salient entries stay, exactly
       k = int(density * n), equal ones to the lower index.
    2. Iterative merging: model by model, each writes those of its entries that are still free, so
       that no entry is averaged.

    Args:
        scores: s_i, saliency of each entry of model i's change.
        density: share of each model's entries kept, in [0, 1]; where every model shall find room,
            1 / number of models.
        weight: w_i; the paper has none.
        priority: models in the order they write; those not named follow in the recipe's order.

    A reconstruction from the abstract and summaries of the paper: densities, order and the scope of
    the ranking (here each tensor) are not known to be the paper's.
    Cost: 2 to 4 passes.
    Source: Wang et al. 2025, Optimal Brain Iterative Merging, https://arxiv.org/abs/2502.12217.
    """
    (elected,) = survey.top(scores, shares=numbers(density, len(deltas)))
    owned = first_highest(elected, [*priority, *range(len(deltas))])
    record(**figures(elected, owned, deltas))
    return merge_changes(base, deltas, keep=owned, weight=weight)
