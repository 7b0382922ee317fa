"""OSRM after training: each adapter acts only on inputs that the others do not read."""

from collections.abc import Sequence

import torch

from ledmerge.ops.factors import weighted_sum
from ledmerge.ops.per_model import numbers
from ledmerge.ops.svd import svd
from ledmerge.types import Factors, PerModel

RANK = "sum"


def osrm(factors: Sequence[Factors], *, weight: PerModel = 1.0) -> Factors:
    """Sum of w_i (B_i A_i) pinv(A'_i) A'_i, A'_i being A_i without the rows' span of the others.

    Args:
        weight: factor on each adapter's change.

    A stand-in: the paper takes A_i, before training, from the directions that the other tasks'
    features lack, and adapts to an A found afterwards by B = dW pinv(A). Adapters alone hold no
    features; the rows of the others' A, which training moves along their inputs, stand for them.
    Adapters that share all their rows are left with nothing: look at the report.
    Source: https://arxiv.org/abs/2505.22934.
    """
    parts: list[Factors] = []
    for i, (a, b) in enumerate(factors):
        others = [each for j, (each, _) in enumerate(factors) if j != i]
        if not others:
            return weighted_sum(factors, numbers(weight, 1))
        span = svd(torch.cat(others))[2].double()  # (k, columns), orthonormal
        wide = a.double()
        left = wide - wide @ span.T @ span
        left = left - left @ span.T @ span  # once more: the first leaves rounding of its own size
        kept = left * (torch.linalg.vector_norm(left) > 1e-6 * torch.linalg.vector_norm(wide))
        parts.append((kept.float(), (b.double() @ wide @ torch.linalg.pinv(kept)).float()))
    return weighted_sum(parts, numbers(weight, len(factors)))
