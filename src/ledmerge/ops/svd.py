"""Singular values and vectors, by the cheapest exact way for the shape."""

from collections.abc import Sequence

import torch
from torch import Tensor

TALL = 4
"""From this ratio of its sides a matrix is brought to a square one first, by QR: (8192, 512) takes
a third of the time."""


def svd(matrix: Tensor, least: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """(U (m, r), s (r,) falling, Vh (r, n)) with matrix = U diag(s) Vh, float32.

    r is the numerical rank: directions whose singular value is no more than rounding (max(m, n) *
    eps * the largest, or than `least`) are left out, since they are arbitrary.
    """
    if matrix.shape[0] < matrix.shape[1]:
        u, s, vh = svd(matrix.T, least)
        return vh.T, s, u.T
    if matrix.shape[0] >= TALL * matrix.shape[1]:
        q, r = torch.linalg.qr(matrix)
        u, s, vh = torch.linalg.svd(r, full_matrices=False)
        u = q @ u
    else:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    rounding = s[0] * max(matrix.shape) * torch.finfo(s.dtype).eps
    rank = int((s > rounding.clamp(min=least)).sum())
    return u[:, :rank], s[:rank], vh[:rank]


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
