"""RegMean: the weights whose outputs are nearest to every model's on its own inputs."""

import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.per_model import column, model_sum, numbers
from ledmerge.types import Grain, Grams, Models, PerModel, Weight

GRAIN: Grain = "tensor"

MOST = 0.99
"""Above, rounding may leave no inverse: Gram matrices of fewer tokens than features have none."""


def regmean(
    models: Models,
    *,
    grams: Grams | None = None,
    weight: PerModel = 1.0,
    off_diagonal: float = 0.9,
) -> Weight:
    """(sum_i w_i W_i G_i) (sum_i w_i G_i)^-1, G_i the mean of x x^T over the inputs of model i.

    This is the minimum of sum_i w_i |W X_i - W_i X_i|^2 but for one thing: entries of G_i off the
    diagonal are multiplied by `off_diagonal` first. Inputs that are 0 for all models keep the mean.

    Tensors without Gram matrices (embeddings, vectors) get the mean of the models, by w_i.

    Computed around the mean, in float64, so that equal models come out as they are, bit for bit.

    Args:
        grams: G_i, of model i on its own data (`score: gram`, which is located by itself).
        weight: w_i, at least 0; the paper has none.
        off_diagonal: alpha of the paper, from 0 (each input feature by itself) to 0.99.

    Raises:
        RecipeError: a weight is below 0, or all are 0; `off_diagonal` is outside [0, 0.99].

    Differs from the paper in one place: G_i is a mean over tokens, there a sum.
    Cost: 1 Cholesky of (n, n), float64.
    Source: Jin et al. 2023, Dataless knowledge fusion by merging weights of language models,
    https://arxiv.org/abs/2212.09849.
    """
    weights = numbers(weight, len(models))
    if min(weights) < 0 or not any(weights):
        raise RecipeError("regmean: weights should be at least 0, and one of them above 0")
    if not 0 <= off_diagonal <= MOST:
        raise RecipeError(
            f"regmean: 'off_diagonal' should be from 0 to {MOST:g}, found {off_diagonal:g}"
        )
    changes = models - models[0]
    mean = model_sum(changes * column([w / sum(weights) for w in weights], changes))
    if grams is not None and changes.any():
        mean = mean + _from_mean(changes, mean, grams, weights, off_diagonal)
    return add(models[0], mean)


def _from_mean(
    changes: Tensor, mean: Tensor, grams: Tensor, weights: list[float], off_diagonal: float
) -> Tensor:
    """(sum_i w_i (W_i - mean) G_i) (sum_i w_i G_i)^-1, (d_out, d_in), float32."""
    total = torch.zeros(grams.shape[1:], dtype=torch.float64, device=grams.device)
    wanted = torch.zeros(mean.shape, dtype=torch.float64, device=mean.device)
    for change, gram, weight in zip(changes, grams, weights, strict=True):
        # Not in place: the caller's matrices stay as they are.
        shrunk = gram.double() * (weight * off_diagonal)
        shrunk.diagonal().copy_(gram.diagonal().double() * weight)
        wanted += (change - mean).double() @ shrunk
        total += shrunk
    # To a diagonal of 1: features differ by orders of magnitude, and their rounding with them.
    scale = total.diagonal().clamp(min=0).sqrt()
    scale = torch.where(scale > 0, 1 / scale, 0.0)
    total = scale[:, None] * total * scale
    total.diagonal().fill_(1.0)
    factor = torch.linalg.cholesky(total)
    solved = torch.cholesky_solve((wanted * scale).T, factor).T * scale
    return solved.float()
