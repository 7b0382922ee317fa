"""Model Breadcrumbs: drop the largest and the smallest changes of each model, add the rest."""

from ledmerge.ops.consensus import merge_changes
from ledmerge.ops.rescale import to_whole_l1
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.ops.trim import middle
from ledmerge.types import Deltas, Grain, PerModel, Weight

GRAIN: Grain = "entry"


def breadcrumbs(
    base: Weight,
    deltas: Deltas,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 1.0,
    gamma: PerModel = 0.01,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
    survey: Survey = WHOLE,
) -> Weight:
    """base + lambda * sum_i w_i m_i * delta_i.

    m_i is 1 on k = int(density * n) entries of the tensor: the largest int(gamma * n) magnitudes
    are passed over as outliers, and of the rest the largest k are kept.

    Args:
        weight: w_i.
        density: share of entries kept, in [0, 1].
        gamma: share of the largest entries passed over, in [0, 1]; fewer where k would not be
            reached.
        normalize: divide the sum by sum_i w_i.
        rescale: scale each masked change back to the L1 norm of the whole one, per tensor.
        lambda_: factor on the whole update; alpha of the paper.

    The paper gives beta and gamma, the shares dropped below and above: density = 1 - beta - gamma.
    Cost: 2 to 5 passes.
    Source: Davari and Belilovsky 2023, Model Breadcrumbs, https://arxiv.org/abs/2312.06795;
    mergekit 0.1.5, whose order of dropping is taken over.
    """
    kept = deltas * middle(deltas, density=density, gamma=gamma, survey=survey)
    if rescale:
        kept = to_whole_l1(kept, deltas, survey)
    return merge_changes(base, kept, weight=weight, normalize=normalize, scale=lambda_)
