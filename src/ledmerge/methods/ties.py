"""TIES: trim small changes, elect one sign per entry, average the changes that agree with it."""

from ledmerge.ops.consensus import Convention, merge_changes
from ledmerge.ops.per_model import numbers
from ledmerge.ops.rescale import to_whole_l1
from ledmerge.ops.survey import WHOLE, Scope, Survey
from ledmerge.types import Deltas, Grain, PerModel, Weight

GRAIN: Grain = "entry"


def ties(
    base: Weight,
    deltas: Deltas,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 1.0,
    normalize: bool = True,
    rescale: bool = False,
    lambda_: float = 1.0,
    scope: Scope = "tensor",
    convention: Convention = "mergekit",
    survey: Survey = WHOLE,
) -> Weight:
    """Trim, elect, disjoint mean.

    1. Trim: keep the `density` largest |delta_i| of each model, exactly k = int(density * n)
       entries, at least one where density > 0, equal magnitudes to the lower index.
    2. Elect: gamma = sign of sum_i w_i delta_i; where the sum is 0, + (mergekit) or nobody (paper).
    3. Disjoint mean: base + lambda * (sum of w_i delta_i over the i that agree with gamma)
       / (sum of their w_i).

    The paper's own setting is `weight: 1`, `density: 0.2`, `scope: global`, `convention: paper`;
    mergekit trims within each tensor.

    Args:
        weight: w_i; the paper has none.
        density: share of each model's entries kept, in [0, 1]; the paper's k% is 100 * density.
        normalize: divide by the weights that agree; without it their sum is taken as it is.
        rescale: scale each trimmed change back to the L1 norm of the whole one, per tensor.
        lambda_: lambda of the paper, equation 3.
        scope: trim within each tensor, each layer, or over the whole model.
        convention: what a sum of 0 elects: + (mergekit) or nobody (the paper).

    Cost: 2 to 4 passes.
    Source: Yadav et al. 2023, https://arxiv.org/abs/2306.01708, algorithm 1.
    """
    shares = numbers(density, len(deltas))
    (keep,) = survey.top(deltas, shares=shares, scope=scope, at_least=1)
    trimmed = to_whole_l1(deltas * keep, deltas, survey) if rescale else deltas
    return merge_changes(
        base,
        trimmed,
        weight=weight,
        keep=None if rescale else keep,
        normalize=normalize,
        scale=lambda_,
        consensus=convention,
    )
