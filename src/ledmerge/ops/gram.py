"""Lengths and angles between models, each tensor taken as one vector."""

import torch
from torch import Tensor

from ledmerge.ops.survey import Survey
from ledmerge.types import Models


def gram(stack: Models, survey: Survey) -> Tensor:
    """The inner products of all pairs over the whole tensor, float64 of shape (model, model).

    Whatever a method does inside the span of the models, along arcs or in tangent spaces, can be
    worked out on this small matrix; the models themselves are then summed once.
    """
    count = len(stack)
    pairs = [(i, j) for i in range(count) for j in range(i, count)]
    products = survey.total(torch.stack([stack[i] * stack[j] for i, j in pairs]))
    found = torch.zeros(count, count, dtype=torch.float64)
    for (i, j), product in zip(pairs, products.tolist(), strict=True):
        found[i, j] = found[j, i] = product
    return found
