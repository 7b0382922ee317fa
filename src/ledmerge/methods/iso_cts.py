"""Iso-CTS: Iso-C, with the weakest shared directions replaced by directions of single models."""

import torch

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.per_model import model_sum
from ledmerge.ops.svd import is_matrix, nearest_orthogonal, rounding, svd
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "tensor"


def iso_cts(base: Weight, deltas: Deltas, *, common: float = 0.8, lambda_: float = 1.0) -> Weight:
    """base + lambda * mean(S) U* V*, from shared directions and from each model's own.

    1. Shared: the leading c singular directions of sum_i delta_i, c about common * rank.
    2. Own: of each delta_i less its part in the span of the shared left directions, the leading
       (rank - c) / T singular directions.
    3. U* and V* are the nearest matrices with orthonormal columns to all left and all right
       directions; S holds the singular values of both kinds.

    Tensors that are no matrix get lambda * the mean of the changes. Directions of singular value 0
    are left out.

    Args:
        common: share of the directions that are shared, in [0, 1].
        lambda_: alpha of the paper, which chooses it on validation data.

    Raises:
        RecipeError: `common` is outside [0, 1].

    Cost: T + 3 SVDs.
    Source: Marczak et al. 2025, No Task Left Behind, https://arxiv.org/abs/2502.04959, section 4.2.
    """
    if not 0 <= common <= 1:
        raise RecipeError(f"iso_cts: 'common' should be from 0 to 1, found {common:g}")
    count, rank = len(deltas), min(base.shape, default=0)
    if not is_matrix(base):
        return add(base, model_sum(deltas) * (lambda_ / count))
    own_count = round((rank - int(rank * common)) / count)
    shared_count = max(0, rank - own_count * count)
    shared = [part[:shared_count] for part in _rows(model_sum(deltas))]
    parts, u = [shared], shared[0]
    for delta in deltas:
        # What is no more than rounding of the change is no direction of the little left of it.
        own = _rows(delta - u.T @ (u @ delta), least=rounding(delta.norm(), delta).item())
        parts.append([part[:own_count] for part in own])
    left, sizes, right = (torch.cat(part) for part in zip(*parts, strict=True))
    if not len(sizes):
        return add(base, torch.zeros_like(base))
    left, right = nearest_orthogonal(left.T), nearest_orthogonal(right.T)
    return add(base, left @ right.T * (sizes.mean().item() * lambda_))


def _rows(
    matrix: torch.Tensor, least: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Left directions (r, m), singular values (r,), right directions (r, n)."""
    u, s, vh = svd(matrix, least)
    return u.T, s, vh
