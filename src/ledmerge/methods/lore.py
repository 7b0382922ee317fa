"""LoRE: find the base that leaves every model a change of low rank, and add the changes up."""

import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.per_model import model_sum
from ledmerge.ops.svd import is_matrix, svd
from ledmerge.types import Grain, Models, Weight

GRAIN: Grain = "tensor"


def lore(models: Models, *, mu: float = 0.01, steps: float = 20.0, lambda_: float = 1.0) -> Weight:
    """theta_0 + lambda * sum_i delta_i, theta_0 a base from which the models differ by low ranks.

    min sum_i 1/2 |theta_0 + delta_i - theta_i|^2 + mu |delta_i|_* over theta_0 and the delta_i,
    |.|_* the sum of singular values. In turns, from delta_i = 0: theta_0 = mean_i (theta_i -
    delta_i); then delta_i is theta_i - theta_0 with its singular values lowered by mu, down to 0.
    No base is needed. Tensors that are no matrix get the mean of the models.

    Computed around the first model, so that equal models come out as they are, bit for bit.

    Args:
        mu: what is taken off each singular value, at least 0; it is in the units of the weights.
        steps: turns.
        lambda_: factor on the sum of the changes; at 1 / models the result is close to the mean.

    Raises:
        RecipeError: `mu` is below 0.

    Differs from the paper in its objective: printed with the square of |.|_*, which the paper's own
    thresholding does not minimise. Defaults are not known to be the paper's.
    Cost: 20 T SVDs.
    Source: Liu et al. 2025, LoRE-Merging, https://arxiv.org/abs/2502.10749.
    """
    if mu < 0:
        raise RecipeError(f"lore: 'mu' should be at least 0, found {mu:g}")
    first, count = models[0], len(models)
    apart = models - first
    if not is_matrix(first):
        return add(first, model_sum(apart) / count)
    center, changes = model_sum(apart) / count, torch.zeros_like(apart)
    for _ in range(int(steps)):
        center = model_sum(apart - changes) / count
        changes = torch.stack([_lowered(each - center, mu) for each in apart])
    return add(first, center + model_sum(changes) * lambda_)


def _lowered(matrix: Tensor, mu: float) -> Tensor:
    u, s, vh = svd(matrix)
    return u * (s - mu).clamp(min=0) @ vh
