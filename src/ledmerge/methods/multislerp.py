"""Multi-SLERP: the mean direction of the models, or of their task vectors, at their mean length."""

import torch

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add, add_distances
from ledmerge.ops.gram import gram
from ledmerge.ops.per_model import numbers, weighted_sum
from ledmerge.ops.roots import sqrt
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Grain, Models, PerModel, Weight

GRAIN: Grain = "entry"

NOISE = 1e-3
"""Share of sum_i |w_i| below which the length of a mean of unit vectors is rounding: the root of
what float32 products may be wrong by."""


def multislerp(
    models: Models,
    *,
    weight: PerModel = 1.0,
    normalize_weights: bool = True,
    eps: float = 1e-8,
    base: Weight | None = None,
    survey: Survey = WHOLE,
) -> Weight:
    """sum_i w_i |v_i| * m / |m|, m = sum_i w_i v_i / |v_i|.

    v_i is theta_i, or theta_i - base where the recipe has a `base_model`, which is then added
    again. Each tensor is one vector. mergekit goes on from m in its tangent space, by sum_i w_i
    (u_i - (u_i . m / |m|) m / |m|) of the directions u_i; that step is 0 whatever the weights, so
    it is left out. One model alone is taken as it is.

    Args:
        weight: w_i, any finite number.
        normalize_weights: divide the weights by their sum.
        eps: a v_i or an m this short has no direction. Without m the sum of the w_i v_i is taken.

    Raises:
        RecipeError: the weights sum to 0 and are to be normalized; `eps` is below 0.

    Differs from mergekit 0.1.5 where opposite models leave no m: it does so for two models only,
    and stops the merge for more. It also adds eps to every length; here lengths are as they are.
    Cost: 2 passes.
    Source: Goddard 2025, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea.
    """
    if eps < 0:
        raise RecipeError(f"multislerp: 'eps' should be at least 0, found {eps:g}")
    weights = torch.tensor(numbers(weight, len(models)), dtype=torch.float64)
    if normalize_weights:
        if weights.sum().abs() < 1e-8:
            raise RecipeError(
                "multislerp: the weights sum to 0, so they cannot be normalized; change them, or "
                "set `normalize_weights: false`"
            )
        weights = weights / weights.sum()
    if len(models) == 1:
        return models[0].clone()
    vectors = models if base is None else models - base
    factors = _factors(gram(vectors, survey), weights, eps)
    if base is not None:
        return add(base, weighted_sum(factors.tolist(), vectors))
    heaviest = int(factors.abs().argmax())
    return add_distances(models, heaviest, factors.tolist(), factors.sum().item())


def _factors(products: torch.Tensor, weights: torch.Tensor, eps: float) -> torch.Tensor:
    """How much of each vector the result holds, float64 (model,)."""
    lengths = sqrt(products.diagonal())
    shares = torch.where(lengths > eps, weights / lengths, 0.0)
    length = sqrt((shares @ products @ shares).clamp(min=0))
    if length <= max(eps, NOISE * weights.abs().sum().item()):
        return weights
    return shares * (weights @ lengths) / length
