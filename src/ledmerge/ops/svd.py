"""Singular values and vectors, by the cheapest exact way for the shape."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ledmerge.ops.random import uniform

TALL = 4
"""From this ratio of its sides a matrix is brought to a square one first, by QR: (8192, 512) takes
a third of the time."""
LOW = 8
"""Up to this share of the shorter side, the rank of a matrix is low."""
LARGE = 256
"""From this shorter side it pays to find out whether the rank is low."""
SLACK = 8
"""How many times as large as expected rounding may be."""
SPARE = 8
"""Random columns that tell whether the others span all."""


def svd(matrix: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """(U (m, r), s (r,) falling, Vh (r, n)) with matrix = U diag(s) Vh, float32.

    r is the numerical rank: directions whose singular value is no more than rounding (8 *
    sqrt(min(m, n)) * eps * the largest, or than `least`) are left out, since they are arbitrary.
    """
    if matrix.shape[0] < matrix.shape[1]:
        u, s, vh = svd(matrix.T, least)
        return vh.T, s, u.T
    low = _low_rank(matrix)
    u, s, vh = _whole(matrix) if low is None else low
    rank = int((s > rounding(s[0], matrix).clamp(min=least)).sum())
    return u[:, :rank], s[:rank], vh[:rank]


def rounding(size: Tensor, matrix: Tensor) -> Tensor:
    """How large rounding may be in a matrix of this size.

    Errors of entries add up like a random walk, so this does not grow with the longer side: max(m,
    n) * eps, which is common, would take all but one direction of an output embedding for rounding
    where tokens have moved together.
    """
    return size * (SLACK * math.sqrt(min(matrix.shape)) * torch.finfo(matrix.dtype).eps)


def _whole(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All directions of an upright or square matrix."""
    if matrix.shape[0] < TALL * matrix.shape[1]:
        return torch.linalg.svd(matrix, full_matrices=False)
    q, r = torch.linalg.qr(matrix)
    u, s, vh = torch.linalg.svd(r, full_matrices=False)
    return q @ u, s, vh


def _low_rank(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Directions of an upright or square matrix that leave no more than rounding of it, if few do.

    Random columns of its range span it where its rank is below their number (Halko, Martinsson and
    Tropp 2011, https://arxiv.org/abs/0909.4061, algorithm 4.1). What they leave is measured, so
    that nothing hangs on chance but the time.
    """
    side, width = matrix.shape[1], matrix.shape[1] // LOW
    if side < LARGE:
        return None
    start = torch.from_numpy(uniform(0, "range", 0, 0, side * width)).view(side, width) - 0.5
    columns = matrix @ start.to(matrix)
    spanning, spare = columns.split([width - SPARE, SPARE], dim=1)
    q, _ = torch.linalg.qr(spanning)
    if (spare - q @ (q.T @ spare)).norm() > rounding(spare.norm(), matrix):
        return None  # nearly always right, for a small part of the time of measuring it
    inside = q.T @ matrix
    v, s, uh = _whole(inside.T)
    is_all = (matrix - q @ inside).norm() <= rounding(s[0], matrix)
    return (q @ uh.T, s, v.T) if is_all else None


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    """U Vh of a matrix U diag(s) Vh: the nearest one with orthonormal columns (Procrustes)."""
    u, _, vh = svd(matrix)
    return u @ vh


def joined_orthogonally(parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """U* diag(S) V* of several (U_i, s_i, Vh_i).

    U* is `nearest_orthogonal` of all left directions side by side, V* of all right ones, and S
    holds all singular values.
    """
    lefts, sizes, rights = zip(*parts, strict=True)
    left, right = torch.cat(lefts, dim=1), torch.cat(rights)
    if not right.shape[0]:
        return left @ right
    return nearest_orthogonal(left) * torch.cat(sizes) @ nearest_orthogonal(right.T).T


def is_matrix(weight: Tensor) -> bool:
    """Whether a tensor has directions: two axes, neither of them of length 1 or 0."""
    return weight.ndim == 2 and min(weight.shape) > 1
