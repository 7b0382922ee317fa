"""Scaled arithmetic: weighted task vectors, all of one length in every layer."""

from ledmerge.ops.add import add
from ledmerge.ops.per_model import numbers, weighted_sum
from ledmerge.ops.survey import WHOLE, Scope, Survey
from ledmerge.types import Deltas, Grain, PerModel, Weight

GRAIN: Grain = "entry"


def scaled_arithmetic(
    base: Weight,
    deltas: Deltas,
    *,
    weight: PerModel = 1.0,
    lambda_: float = 1.0,
    scope: Scope = "layer",
    survey: Survey = WHOLE,
) -> Weight:
    """base + lambda * sum_i w_i (n / n_i) delta_i, n_i = |delta_i| in a layer, n = mean_j n_j.

    Experts are tuned for different times, and move some layers farther than others. Summed as they
    are, one of them rules a layer by its length alone: a safety expert makes the model refuse all,
    or its refusals drown. Brought to one length, w_i alone says how much each counts: give the
    safety expert the larger weight. A change of 0 in a layer stays 0, and counts in the mean.

    Args:
        weight: w_i; above 1 for the safety expert is safety-weighted.
        lambda_: factor on the whole update.
        scope: what has one length: each tensor, each layer, the whole model.

    A reconstruction: safety-weighted task arithmetic with layer scaling is named in the field, and
    that changes be normalised per layer is advised, without a formula.
    Cost: 2 passes.
    Source: Ilharco et al. 2023, https://arxiv.org/abs/2212.04089; scaling by layer after Asymmetric
    Collapse 2026, https://arxiv.org/abs/2607.27240.
    """
    sums = survey.total(deltas, of="squares", scope=scope).tolist()
    lengths = [square**0.5 for square in sums]
    mean = sum(lengths) / len(lengths)
    weights = [
        w * mean / length if length else 0.0
        for w, length in zip(numbers(weight, len(deltas)), lengths, strict=True)
    ]
    return add(base, weighted_sum(weights, deltas) * lambda_)
