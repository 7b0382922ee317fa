"""LATA: leave out of an expert the layers that only follow instructions."""

import torch

from ledmerge.ops.add import add
from ledmerge.ops.per_model import numbers, weighted_sum
from ledmerge.ops.survey import WHOLE, Scope, Survey
from ledmerge.types import Deltas, Grain, PerModel, Weight

GRAIN: Grain = "entry"


def lata(
    base: Weight,
    deltas: Deltas,
    *,
    threshold: float,
    weight: PerModel = 1.0,
    scope: Scope = "layer",
    survey: Survey = WHOLE,
) -> Weight:
    """base + w_1 delta_1 + sum_{i > 1} w_i (delta_i where cos(delta_i, delta_1) < threshold, or 0).

    The first model is the instruction-tuned one. Where another's change points the way of its
    change, it has learnt to follow instructions there, which need not be added again.

    Args:
        threshold: cosine with the first model's change from which a layer of another is left out;
            for near orthogonal changes 0.1 is high.
        weight: w_i; lambda_i of the paper, w_1 = 1.
        scope: what the cosine is of: each tensor, each layer (the paper), the whole model.

    Of the paper's three schemes this is drop with threshold; the other two shrink layers by their
    rank among all. Where a change is 0, nothing is left out.
    Cost: 2 passes.
    Source: Chen et al. 2025, Layer-aware task arithmetic, https://arxiv.org/abs/2502.20186,
    section 3.
    """
    others = range(1, len(deltas))
    products = [deltas[i] * deltas[0] for i in others]
    sums = survey.total(torch.stack([*products, *deltas.square()]), scope=scope).tolist()
    dots, squares = sums[: len(others)], sums[len(others) :]
    weights = numbers(weight, len(deltas))
    for i, dot in zip(others, dots, strict=True):
        lengths = (squares[i] * squares[0]) ** 0.5
        if lengths and dot / lengths >= threshold:
            weights[i] = 0.0
    return add(base, weighted_sum(weights, deltas))
