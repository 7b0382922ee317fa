"""AIM: task arithmetic that moves the base least where its inputs are largest."""

import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.per_model import weighted_sum
from ledmerge.ops.roots import sqrt
from ledmerge.types import Deltas, Grain, Grams, PerModel, Weight

GRAIN: Grain = "tensor"


def aim(
    base: Weight,
    deltas: Deltas,
    *,
    base_grams: Grams | None = None,
    weight: PerModel = 1.0,
    lambda_: float = 1.0,
    omega: float = 0.4,
) -> Weight:
    """base + lambda * (1 - (1 - omega) s_j) * sum_i w_i delta_i, in column j of a weight.

    s_j = a_j / max a, where a_j is the root mean square of input feature j at the base. The data
    say what the base is to keep, so they are usually the same for every model and about no task
    in particular; where they differ, a_j^2 is the mean over the models.

    Tensors without Gram matrices (embeddings, vectors) get lambda * sum_i w_i delta_i.

    Args:
        base_grams: the diagonals hold a_j^2, at the base on model i's data (`score: gram`, which is
            located by itself).
        weight: w_i.
        lambda_: factor on the whole update.
        omega: what is left of the update in the column of the largest inputs, in [0, 1]; 1 is task
            arithmetic.

    Raises:
        RecipeError: `omega` is outside [0, 1].

    Differs from the released code in two places: that has the mean of |x| where a_j is the root
    mean square, and goes over the result of any method. Its default on the command line is 0.4.
    Cost: 1 pass.
    Source: Nobari et al. 2025, Activation-informed merging of large language models,
    https://arxiv.org/abs/2502.02421; code ahnobari/ActivationInformedMerging.
    """
    if not 0 <= omega <= 1:
        raise RecipeError(f"aim: 'omega' should be from 0 to 1, found {omega:g}")
    update = weighted_sum(weight, deltas) * lambda_
    if base_grams is not None:
        update = update * (1 - (1 - omega) * _sizes(base_grams))
    return add(base, update)


def _sizes(grams: Tensor) -> Tensor:
    """s (d_in,), from 0 to 1; all 0 where nothing ever comes in."""
    sizes = sqrt(grams.diagonal(dim1=1, dim2=2).mean(0).clamp(min=0))
    largest = sizes.amax() if len(sizes) else sizes.sum()
    return torch.where(largest > 0, sizes / largest, 0.0)
