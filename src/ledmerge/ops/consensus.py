"""Which changes agree on a direction, and what they come to."""

from typing import Literal

from ledmerge.ops import fused
from ledmerge.ops.add import add
from ledmerge.ops.per_model import column, model_sum, weighted_sum
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
    normalize: bool,
    scale: float,
    consensus: Convention | None = None,
) -> Weight:
    """base + scale * sum of weight_i * change_i: mergekit's generalised task arithmetic.

    Args:
        normalize: divide by the sum of the weights that count; where that is 0, by 1.
        consensus: where given, only the weighted changes that agree in sign count.
    """
    weights = column(weight, changes)
    if consensus is None:
        update = weighted_sum(weight, changes)
    elif fused.is_fusible(base, changes):
        ties_up = consensus == "mergekit"
        return fused.add_agreeing(base, changes, weights.flatten(), scale, normalize, ties_up)
    else:
        weighted = changes * weights
        agree = agreeing(weighted, consensus)
        update = model_sum(weighted * agree)
        weights = agree * weights
    if normalize:
        divisor = model_sum(weights)
        update /= divisor + (divisor.abs() < 1e-8).float() * (1 - divisor)
    return add(base, update * scale)
