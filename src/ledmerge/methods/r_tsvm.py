"""R-TSVM: TSVM of changes without outliers, with more directions for the denser ones."""

import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.per_model import model_sum
from ledmerge.ops.svd import is_matrix, joined_orthogonally, svd
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "tensor"

SIGMA = 1.4826
"""Times the median absolute deviation: the standard deviation, were the numbers normal."""


def r_tsvm(
    base: Weight,
    deltas: Deltas,
    *,
    sigmas: float = 3.0,
    negligible: float = 0.01,
    lambda_: float = 1.0,
) -> Weight:
    """base + lambda * U* diag(S) V*, from k_i leading directions of each change without outliers.

    1. Outliers: in each row of delta_i, |delta_i| is cut to mu + sigmas * sigma, where mu is the
       lower median of the row's magnitudes other than 0, sigma 1.4826 times that of their
       distances from mu.
    2. k_i = max(1, floor(rank * c_i / sum_j c_j)), rank = min(m, n), c_i how many entries of
       delta_i reach `negligible` times its largest magnitude.
    3. U*, S and V* as in `tsvm`, from the leading k_i singular directions of each.

    Tensors that are no matrix get lambda * the mean of the changes.

    Args:
        sigmas: how far above the median a magnitude may lie, at least 0.
        negligible: share of the largest magnitude below which an entry counts as empty.
        lambda_: alpha of TSVM.

    Raises:
        RecipeError: `sigmas` is below 0.

    A reconstruction: the paper names outlier weighting and ranks by sparsity, both formulas here
    are stand-ins. Zeros are left out of the medians, else a row of sparse changes would vanish.
    Cost: T + 2 SVDs.
    Source: Yang et al. 2025, Mix data or merge models?, https://arxiv.org/abs/2502.06876.
    """
    if sigmas < 0:
        raise RecipeError(f"r_tsvm: 'sigmas' should be at least 0, found {sigmas:g}")
    if not is_matrix(base):
        return add(base, model_sum(deltas) * (lambda_ / len(deltas)))
    cut = [_without_outliers(delta, sigmas) for delta in deltas]
    sizes = [delta.abs() for delta in cut]
    counts = [int((size >= negligible * size.max()).sum()) if size.any() else 0 for size in sizes]
    parts = []
    for delta, count in zip(cut, counts, strict=True):
        most = max(1, min(base.shape) * count // max(1, sum(counts)))
        u, s, vh = svd(delta)
        parts.append((u[:, :most], s[:most], vh[:most]))
    return add(base, joined_orthogonally(parts) * lambda_)


def _without_outliers(delta: Tensor, sigmas: float) -> Tensor:
    sizes = delta.abs()
    changed = torch.where(sizes > 0, sizes, torch.nan)
    middle = changed.nanmedian(dim=1, keepdim=True).values
    spread = (changed - middle).abs().nanmedian(dim=1, keepdim=True).values * SIGMA
    most = (middle + sigmas * spread).nan_to_num(nan=0.0)
    return delta.sign() * torch.minimum(sizes, most)
