"""Adding a change to a weight."""

from torch import Tensor

from ledmerge.ops import fused


def add(weight: Tensor, change: Tensor) -> Tensor:
    """weight + change; where the change is 0, the weight's own bits.

    In floating point -0.0 + 0.0 is 0.0, but -0.0 - 0.0 is -0.0, so the change is negated, its
    zeros made positive, and subtracted.
    """
    if weight.shape == change.shape and fused.is_fusible(weight, change):
        return fused.add(weight, change)
    return weight - (0.0 - change)
