"""Adding a change to a weight."""

from collections.abc import Sequence

from torch import Tensor

from ledmerge.ops import fused
from ledmerge.ops.per_model import column, weighted_sum
from ledmerge.types import Models, Weight


def add(weight: Tensor, change: Tensor) -> Tensor:
    """weight + change; where the change is 0, the weight's own bits.

    In floating point -0.0 + 0.0 is 0.0, but -0.0 - 0.0 is -0.0, so the change is negated, its
    zeros made positive, and subtracted.
    """
    if weight.shape == change.shape and fused.is_fusible(weight, change):
        return fused.add(weight, change)
    return weight - (0.0 - change)


def add_distances(models: Models, origin: int, weights: Sequence[float], total: float) -> Weight:
    """total * x_o + sum_i w_i (x_i - x_o) of models x_i, o the `origin`; equal models stay."""
    if fused.is_fusible(models):
        return fused.add_distances(models, origin, column(weights, models).flatten(), total)
    return add(models[origin] * total, weighted_sum(weights, models - models[origin]))
