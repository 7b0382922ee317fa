"""WUDI: the update that disturbs no model's own directions, by least squares."""

import torch

from ledmerge.ops.add import add
from ledmerge.ops.per_model import model_sum
from ledmerge.ops.svd import is_matrix
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "tensor"

SMALLEST = 1e-3
"""Directions in which no model changes more than this share of the most are left as in the sum."""


def wudi(base: Weight, deltas: Deltas, *, lambda_: float = 1.0) -> Weight:
    """base + lambda * tau, tau the minimum of sum_i |(tau - delta_i) delta_i^T|^2 / |delta_i|^2.

    The rows of delta_i stand in for the inputs of its task, so tau shall act on them as delta_i
    does. The minimum is found exactly, nearest to the sum of the changes: with G_i = delta_i^T
    delta_i / |delta_i|^2, tau = sum + (sum_i (delta_i - sum) G_i) (sum_i G_i)^+. The paper goes 300
    steps of Adam from the sum towards it.

    Tensors that are no matrix get lambda * the sum of the changes.

    Args:
        lambda_: factor on the whole update.

    Cost: eigenvalues of (n, n), float64.
    Source: Cheng et al. 2025, Whoever started the interference should end it,
    https://arxiv.org/abs/2503.08099, equation 9.
    """
    total = model_sum(deltas)
    if not is_matrix(base) or not deltas.any():
        return add(base, total * lambda_)
    wide = deltas.double()
    norms = wide.square().sum((1, 2)).clamp(min=torch.finfo(torch.float64).tiny)
    grams = wide.mT @ wide / norms[:, None, None]
    residual = ((wide - total.double()) @ grams).sum(0)
    change = residual @ torch.linalg.pinv(grams.sum(0), rtol=SMALLEST**2, hermitian=True)
    return add(base, (total + change.float()) * lambda_)
