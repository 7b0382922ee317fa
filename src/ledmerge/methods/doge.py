"""DOGE: scale the changes alike, and add what restores each task outside a shared subspace."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.per_model import numbers, weighted_sum
from ledmerge.ops.survey import WHOLE
from ledmerge.ops.svd import is_matrix, svd
from ledmerge.types import Deltas, Grain, PerModel, Weight

GRAIN: Grain = "tensor"

STEPS, TOLERANCE = 400, 1e-4
"""Conjugate gradients end after so many steps, or when the gradient has fallen to this share."""


def doge(
    base: Weight,
    deltas: Deltas,
    *,
    density: PerModel = 0.3,
    eta: float = 0.07,
    subspace: float = 6.0,
) -> Weight:
    """base + sum_i lambda_i m_i * (delta_i + Delta), lambda_i = eta / |delta_i|.

    1. Shared subspace: the leading rank / subspace left singular directions of all models' leading
       rank / T left singular directions side by side; rank = min(m, n), T models.
    2. Delta is the smallest minimum of sum_j |rows of delta_j * (delta_j - sum_i lambda_i (delta_i
       + Delta))|^2 among those without part in the shared subspace; a row counts by the sum of
       its entries.
    3. m_i keeps the `density` largest |delta_i|, equal ones to the lower index.

    Tensors that are no matrix have Delta = 0.

    Args:
        density: share of each model's entries kept, in [0, 1]; K of the paper.
        eta: |lambda_i delta_i| of every model, Frobenius, per tensor; lamda of the code.
        subspace: how many times smaller the shared subspace is than the rank.

    Differs from the released code in three places: that goes 400 steps of Adam from 0 towards
    Delta, whose scaling leads it into the shared subspace again; it cuts the density over the whole
    model; and it leaves alone all that is no matrix of an encoder.
    Cost: T + 1 SVDs, up to 400 products.
    Source: Wei et al. 2025, Modeling multi-task model merging as adaptive projective gradient
    descent, https://arxiv.org/abs/2501.01230; fusion_bench, doge_ta.
    """
    if not subspace > 0:
        raise RecipeError(f"doge: subspace is {subspace:g}; expected a number above 0")
    lengths = [delta.double().norm().item() for delta in deltas]
    factors = [eta / length if length else 0.0 for length in lengths]
    (keep,) = WHOLE.top(deltas, shares=numbers(density, len(deltas)))
    moved = deltas
    if is_matrix(base) and any(factors):
        moved = deltas + _restoring(deltas.double(), factors, _shared(deltas, subspace)).float()
    return add(base, weighted_sum(factors, moved * keep))


def _shared(deltas: Deltas, subspace: float) -> Tensor:
    """Orthonormal columns (m, k)."""
    rank = min(deltas[0].shape)
    most = max(1, rank // len(deltas))
    leading = torch.cat([svd(delta)[0][:, :most] for delta in deltas], dim=1)
    return svd(leading)[0][:, : int(rank / subspace)].double()


def _restoring(deltas: Tensor, factors: Sequence[float], shared: Tensor) -> Tensor:
    """Delta of step 2, by conjugate gradients on the least squares."""
    total = torch.einsum("t,tmn->mn", deltas.new_tensor(factors), deltas)
    scaled = deltas * sum(factors)
    rest = torch.einsum("tmn,tmn->tm", deltas, deltas - total)

    def gradient() -> Tensor:
        back = torch.einsum("tmn,tm->mn", scaled, rest)
        return back - shared @ (shared.T @ back)

    found = torch.zeros_like(total)
    toward = slope = gradient()
    size = first = slope.square().sum().item()
    for _ in range(STEPS):
        if size <= TOLERANCE**2 * first:
            break
        seen = torch.einsum("tmn,mn->tm", scaled, toward)
        length = size / seen.square().sum().item()
        found += toward * length
        rest -= seen * length
        slope = gradient()
        size, before = slope.square().sum().item(), size
        toward = slope + toward * (size / before)
    return found
