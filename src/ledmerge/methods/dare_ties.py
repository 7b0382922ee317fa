"""DARE with TIES: drop entries of each change at random, rescale, add those that agree in sign."""

from ledmerge.ops.consensus import Convention, merge_changes
from ledmerge.ops.drop import drop_and_rescale
from ledmerge.ops.random import draw_uniform
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Deltas, Draw, Grain, PerModel, Weight

GRAIN: Grain = "entry"


def dare_ties(
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
    """base + lambda * sum of w_i r_i (m_i * delta_i) over the i whose sign wins, m_i ~ Bernoulli.

    The sign of an entry is that of the sum over models, as in TIES; nothing is trimmed by size.

    Args:
        weight: w_i.
        density: chance of an entry to stay, in [0, 1]; the paper's drop rate p is 1 - density.
        normalize: divide by the sum of the weights that agree (TIES's disjoint mean).
        rescale: apply r_i; without it r_i = 1.
        lambda_: factor on the whole update.
        convention: r_i restores the L1 norm of the tensor's change (mergekit), or is
            1 / density, and a sum of 0 elects nobody (the papers).

    Cost: 2 passes (paper: 1).
    Source: Yu et al. 2024, https://arxiv.org/abs/2311.03099, section 3, with the sign election of
    Yadav et al. 2023, https://arxiv.org/abs/2306.01708.
    """
    kept = drop_and_rescale(
        deltas,
        density=density,
        rescale=rescale,
        convention=convention,
        random=random,
        survey=survey,
    )
    return merge_changes(
        base, kept, weight=weight, normalize=normalize, scale=lambda_, consensus=convention
    )
