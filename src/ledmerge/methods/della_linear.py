"""DELLA with task arithmetic: drop small changes more often than large ones, add up."""

from ledmerge.ops.consensus import merge_changes
from ledmerge.ops.della import drop_by_rank
from ledmerge.ops.random import draw_uniform
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Deltas, Draw, Grain, PerModel, Weight

GRAIN: Grain = "row"


def della_linear(
    base: Weight,
    deltas: Deltas,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 1.0,
    epsilon: PerModel = 0.15,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
    random: Draw = draw_uniform,
    survey: Survey = WHOLE,
) -> Weight:
    """base + lambda * sum_i w_i r_i (m_i * delta_i).

    m_i is Bernoulli(p), where p goes with the rank of |delta_i| in its row from density - epsilon
    (smallest) to density + epsilon (largest); r_i restores the L1 norm of the tensor's change.

    Args:
        weight: w_i.
        density: mean chance of an entry to stay, in [0, 1]; 1 - p of the paper.
        epsilon: half the spread of the chances; chances are cut off at 0 and 1.
        normalize: divide the sum by sum_i w_i.
        rescale: apply r_i; without it r_i = 1.
        lambda_: factor on the whole update.

    mergekit 0.1.5 refuses a density +- epsilon outside (0, 1), and cannot draw for rows of one
    entry; otherwise this is its arithmetic. The paper divides each kept entry by its own chance.
    Cost: 2 passes with a sort of each row, 1 without `rescale`.
    Source: Deep et al. 2024, DELLA-Merging, https://arxiv.org/abs/2406.11617.
    """
    kept = drop_by_rank(
        deltas, density=density, epsilon=epsilon, rescale=rescale, random=random, survey=survey
    )
    return merge_changes(base, kept, weight=weight, normalize=normalize, scale=lambda_)
