"""Low-rank matrices B A held as their factors, so that no step makes the product."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ledmerge.types import Factors


def norm(factors: Factors) -> float:
    """Frobenius norm of B A."""
    a, b = factors
    return float(torch.linalg.matrix_norm(_triangle(b) @ _triangle(a.T).T))


def weighted_sum(pairs: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Factors of the sum of w_i B_i A_i, exact: the ranks add up."""
    a = torch.cat([w * a for w, (a, _) in zip(weights, pairs, strict=True)])
    return a, torch.cat([b for _, b in pairs], dim=1)


def truncated(factors: Factors, rank: int) -> Factors:
    """The nearest matrix of a rank (or of less, where the sides are shorter), both factors alike.

    The singular values lie in equal parts in A and B. Computed in float64 on the small square
    matrix between the two orthonormal bases.
    """
    a, b = factors
    left, right = torch.linalg.qr(b.double()), torch.linalg.qr(a.T.double())
    u, s, vh = torch.linalg.svd(left[1] @ right[1].T, full_matrices=False)
    root = s[:rank].sqrt()
    return (
        (root[:, None] * vh[:rank] @ right[0].T).float(),
        (left[0] @ u[:, :rank] * root).float(),
    )


def _triangle(matrix: Tensor) -> Tensor:
    """R of the QR decomposition, float64."""
    return torch.linalg.qr(matrix.double(), mode="r")[1]
