"""Arcee Fusion: take over the other model's most important changes, leave the rest."""

import torch
from torch import Tensor

from ledmerge.ops.add import add
from ledmerge.types import Grain, Weight

GRAIN: Grain = "tensor"

TINY = 1e-8
"""Added to each probability, so that none is 0."""


def arcee_fusion(base: Weight, other: Weight) -> Weight:
    """base + m * (other - base), m = 1 where the importance is at least median + 1.5 * IQR.

    The importance of an entry is |other - base| times the Kullback-Leibler divergence of its row:
    softmax(row of other) from softmax(row of base). A vector is one row. Quartiles are entries of
    the tensor, those of rank floor(q * (n - 1)).

    mergekit 0.1.5 takes quartiles of tensors above a million entries from a random sample; here
    they are exact, so a merge can be repeated. It adds divergences up in float32, whose rounding is
    larger than most of a gentle fine-tune's; here they are float64, and at least 0.
    Cost: 3 selections.
    Source: Arcee AI, Arcee Fusion, 2025; mergekit 0.1.5.
    """
    if base.numel() == 0:
        return base.clone()
    change = other - base
    rows = (*base.shape[:-1], 1) if base.ndim else ()
    divergence = _divergence(torch.atleast_1d(other), torch.atleast_1d(base)).reshape(rows)
    importance = change.abs() * divergence
    low, middle, high = (_quartile(importance.flatten(), share) for share in (0.25, 0.5, 0.75))
    return add(base, change * (importance >= middle + 1.5 * (high - low)).float())


def _divergence(other: Tensor, base: Tensor) -> Tensor:
    """Of each row, (*rows, 1)."""
    p, q = (row.double().softmax(-1) + TINY for row in (other, base))
    return (p * (p / q).log()).sum(-1, keepdim=True).clamp_(min=0).float()


def _quartile(values: Tensor, share: float) -> Tensor:
    return values.kthvalue(int(share * (values.numel() - 1)) + 1).values
