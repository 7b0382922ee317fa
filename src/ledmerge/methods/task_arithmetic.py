"""Task arithmetic: add the weighted task vectors to the base."""

from ledmerge.ops.consensus import merge_changes
from ledmerge.types import Deltas, Grain, PerModel, Weight

GRAIN: Grain = "entry"


def task_arithmetic(
    base: Weight,
    deltas: Deltas,
    *,
    weight: PerModel = 1.0,
    normalize: bool = False,
    lambda_: float = 1.0,
) -> Weight:
    """base + lambda * sum_i w_i delta_i.

    Args:
        weight: w_i; the paper has one number for all.
        normalize: divide the sum by sum_i w_i.
        lambda_: factor on the whole update.

    Cost: 1 pass.
    Source: Ilharco et al. 2023, Editing models with task arithmetic,
    https://arxiv.org/abs/2212.04089, section 2.
    """
    return merge_changes(base, deltas, weight=weight, normalize=normalize, scale=lambda_)
