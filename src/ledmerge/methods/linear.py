"""Linear: the weighted average of the models."""

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add_distances
from ledmerge.ops.per_model import numbers
from ledmerge.types import Grain, Models, PerModel, Weight

GRAIN: Grain = "entry"


def linear(models: Models, *, weight: PerModel = 1.0, normalize: bool = True) -> Weight:
    """Weighted average, sum_i w_i theta_i / sum_i w_i.

    Computed around the heaviest model h, theta_h + sum_i w_i (theta_i - theta_h) / sum_i w_i, so
    that equal models come out as they are, bit for bit.

    Args:
        weight: w_i, any finite number.
        normalize: divide by the sum of the weights; without it the sum is taken as it is.

    Raises:
        RecipeError: the weights sum to 0 and are to be normalized.

    Cost: 1 pass.
    Source: Wortsman et al. 2022, Model soups, https://arxiv.org/abs/2203.05482.
    """
    weights = numbers(weight, len(models))
    total = sum(weights)
    if normalize and abs(total) < 1e-8:
        raise RecipeError("linear: the weights sum to 0, so they cannot be normalized")
    if normalize:
        weights, total = [w / total for w in weights], 1.0
    heaviest = max(range(len(models)), key=lambda i: abs(weights[i]))
    return add_distances(models, heaviest, weights, total)
