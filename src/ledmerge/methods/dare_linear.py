"""DARE with task arithmetic: drop entries of each change at random, rescale, add up."""

from ledmerge.ops.consensus import Convention, merge_changes
from ledmerge.ops.drop import drop_and_rescale
from ledmerge.ops.random import draw_uniform
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Deltas, Draw, Grain, PerModel, Weight

GRAIN: Grain = "entry"


def dare_linear(
    base: Weight,
    deltas: Deltas,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 1.0,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
    convention: Convention = "mergekit",
    random: Draw = draw_uniform,
    survey: Survey = WHOLE,
) -> Weight:
    """base + lambda * sum_i w_i r_i (m_i * delta_i), m_i ~ Bernoulli(density).

    Args:
        weight: w_i.
        density: chance of an entry to stay, in [0, 1]; the paper's drop rate p is 1 - density.
        normalize: divide the sum by sum_i w_i.
        rescale: apply r_i; without it r_i = 1.
        lambda_: factor on the whole update.
        convention: r_i restores the L1 norm of the tensor's change (mergekit), or is
            1 / density (the paper).

    Cost: 2 passes (paper: 1).
    Source: Yu et al. 2024, Language models are super Mario, https://arxiv.org/abs/2311.03099,
    section 3.
    """
    kept = drop_and_rescale(
        deltas,
        density=density,
        rescale=rescale,
        convention=convention,
        random=random,
        survey=survey,
    )
    return merge_changes(base, kept, weight=weight, normalize=normalize, scale=lambda_)
