"""Which changes agree on a direction, and what they come to."""

from typing import Literal

import torch
from torch import Tensor

from ledmerge.ops import fused
from ledmerge.ops.add import add
from ledmerge.ops.per_model import column, model_sum
from ledmerge.types import Deltas, Mask, PerModel, Weight

Convention = Literal["mergekit", "paper"]


def agreeing(changes: Deltas, convention: Convention) -> Mask:
    """1 where a change has the sign of the sum over models. Zero changes never agree.

    Where the sum is 0, mergekit takes + for its sign and the paper's sgn(0) = 0 elects nobody.
    Source: Yadav et al. 2023, section 3; mergekit 0.1.5, consensus "sum".
    """
    total = model_sum(changes)
    direction = total.sign() if convention == "paper" else (total >= 0).float() * 2 - 1
    return (changes * direction).relu_().sign_()


def merge_changes(
    base: Weight,
    changes: Deltas,
    *,
    weight: PerModel,
    keep: Mask | None = None,
    normalize: bool = False,
    scale: float = 1.0,
    consensus: Convention | None = None,
) -> Weight:
    """base + scale * sum of weight_i * change_i: mergekit's generalised task arithmetic.

    Args:
        keep: what is counted of each change, 1 or 0 or a share.
        normalize: divide by the sum of the weights that count; where that is 0, by 1.
        consensus: where given, only the weighted changes that agree in sign count.
    """
    weights = column(weight, changes)
    is_fusible = fused.is_fusible(base, changes, *([] if keep is None else [keep]))
    if consensus is None:
        divisor = _divisor(weights) if normalize else torch.ones(1, device=weights.device)
        if is_fusible:
            numbers = weights.flatten(), float(divisor), scale
            return fused.add_weighted(base, changes, keep, *numbers)
        kept = changes if keep is None else changes * keep
        return add(base, model_sum(kept * weights) / divisor.reshape(()) * scale)
    if is_fusible:
        ties_up = consensus == "mergekit"
        return fused.add_agreeing(base, changes, keep, weights.flatten(), scale, normalize, ties_up)
    weighted = (changes if keep is None else changes * keep) * weights
    agree = agreeing(weighted, consensus)
    update = model_sum(weighted * agree)
    if normalize:
        update /= _divisor(agree * weights)
    return add(base, update * scale)


def _divisor(weights: Tensor) -> Tensor:
    """The sum over models, or 1 where that is 0."""
    total = model_sum(weights)
    return total + (total.abs() < 1e-8).float() * (1 - total)
