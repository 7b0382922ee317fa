"""DO-Merging: lengths and directions of columns are merged apart, directions made orthogonal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.per_model import numbers
from ledmerge.types import Factors, PerModel

RANK = "sum"
SWEEPS = 10
"""Times every direction is set to its minimum; on random factors the third changes little."""


def do_merging(
    factors: Sequence[Factors], *, weight: PerModel = 1.0, mu: float = 1.0, scale: float = 1.0
) -> Factors:
    """scale * mean of the column lengths * mean of the directions D_i, pushed apart.

    Each change is B_i A_i = D_i diag(m_i) with columns of length 1 in D_i. The directions become
    those of the minimum of sum over i < j of |X_i^T X_j|^2 + mu sum |X_i - D_i|^2.

    Args:
        weight: of each adapter in both means.
        mu: how strongly a direction stays as it was; 0 to infinity.
        scale: lambda, factor on the whole change.

    A reconstruction: the paper's loss and steps are not known. Here each X_i in turn is set to its
    exact minimum, mu (sum of X_j X_j^T + mu)^-1 D_i, `SWEEPS` times, all of it in the span of the
    factors. Differs further in the mean of magnitudes, which the paper may weigh.
    Source: https://arxiv.org/abs/2505.15875.
    """
    weights = torch.tensor(numbers(weight, len(factors)), dtype=torch.float64)
    if not mu > 0:
        raise RecipeError(f"do_merging: mu is {mu}, expected a number above 0")
    if abs(float(weights.sum())) < 1e-8:
        raise RecipeError("do_merging: the weights sum to 0, so there is no mean")
    weights = weights / weights.sum()
    pairs = [(a.double(), b.double()) for a, b in factors]
    basis = torch.linalg.qr(torch.cat([b for _, b in pairs], dim=1))[0]  # (rows, R)
    lengths, starts, rights = zip(*(_decouple(a, b, basis) for a, b in pairs), strict=True)
    points = list(starts)
    eye = torch.eye(basis.shape[1], dtype=torch.float64)
    for _ in range(SWEEPS):
        for i, start in enumerate(starts):
            others = sum((x @ x.T for j, x in enumerate(points) if j != i), torch.zeros_like(eye))
            points[i] = mu * torch.linalg.solve(others + mu * eye, start)
    length = sum(w * m for w, m in zip(weights, lengths, strict=True))
    a = torch.cat([right * length for right in rights])
    b = torch.cat([scale * w * (basis @ x) for w, x in zip(weights, points, strict=True)], dim=1)
    return a.float(), b.float()


def _decouple(a: Tensor, b: Tensor, basis: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(lengths m (columns,), X (R, r), V^T (r, columns)) with B A = basis X V^T diag(m)."""
    triangle = torch.linalg.qr(b, mode="r")[1]
    lengths = torch.linalg.vector_norm(triangle @ a, dim=0)
    units = torch.where(lengths > 0, a / lengths.clamp_min(1e-300), 0)
    right, left = torch.linalg.qr(units.T)
    return lengths, basis.T @ b @ left.T, right.T
