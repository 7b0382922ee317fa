"""Model Stock: the average of the models, drawn towards the base by how little they agree."""

from itertools import combinations

import torch
from torch import Tensor

from ledmerge.ops.add import add
from ledmerge.ops.gram import gram
from ledmerge.ops.per_model import model_sum
from ledmerge.ops.roots import sqrt
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "entry"
WHOLE_WHERE = {"filter_wise": True}


def model_stock(
    base: Weight, deltas: Deltas, *, filter_wise: bool = False, survey: Survey = WHOLE
) -> Weight:
    """base + t * mean_i delta_i, with t = N c / (1 + (N - 1) c).

    c is the mean cosine between the changes of two models, per tensor; N the number of models.
    Where they agree t is 1, at right angles 0. t is not bounded: changes that point away from each
    other give a negative t, as in mergekit; where 1 + (N - 1) c is 0 the base is kept. One model
    alone is taken as it is, and a change of length 0 is at right angles to all others.

    Args:
        filter_wise: every line along the last axis has a c and a t of its own, and whole tensors
            are held in memory.

    mergekit 0.1.5 divides by the product of two lengths or 1e-6, which takes small changes that
    agree for changes at right angles; here c is the cosine whatever the lengths.
    Cost: 2 passes.
    Source: Jang et al. 2024, Model Stock, https://arxiv.org/abs/2403.19522, equation 7.
    """
    count = len(deltas)
    is_by_line = filter_wise and base.ndim > 1
    products = _line_products(deltas) if is_by_line else gram(deltas, survey)
    lengths = [sqrt(products[i, i]) for i in range(count)]
    cosines = [
        _ratio(products[i, j], lengths[i] * lengths[j]).clamp(-1, 1)
        for i, j in combinations(range(count), 2)
    ]
    cosine = torch.stack(cosines).mean(0) if cosines else torch.ones_like(lengths[0])
    divisor = 1 + (count - 1) * cosine
    share = torch.where(divisor.abs() >= 1e-6, count * cosine / divisor, 0.0)
    return add(base, model_sum(deltas) * (share / count).float())


def _ratio(product: Tensor, most: Tensor) -> Tensor:
    """product / most; 0 where `most` is."""
    return torch.where(most > 0, product / torch.where(most > 0, most, 1.0), 0.0)


def _line_products(deltas: Deltas) -> Tensor:
    """The inner products of all pairs, line by line: float64 (model, model, *shape, 1)."""
    wide = deltas.double()
    return torch.stack([(wide * row).sum(-1, keepdim=True) for row in wide])
