"""Consensus merging: keep the entries that at least some of the tasks use (TALL masks)."""

from ledmerge.ops.add import add
from ledmerge.ops.per_model import column, model_sum, weighted_sum
from ledmerge.types import Deltas, Grain, PerModel, Weight

GRAIN: Grain = "entry"


def consensus(
    base: Weight,
    deltas: Deltas,
    *,
    weight: PerModel = 1.0,
    tall: PerModel = 0.4,
    least: float = 2.0,
    lambda_: float = 1.0,
) -> Weight:
    """base + lambda * m * sum_i w_i delta_i, m = 1 where at least `least` tasks use the entry.

    Task i uses an entry where |delta_i| > tall_i * |sum_j w_j delta_j - delta_i|: there its own
    change is large beside what the others would do to it. Entries used by one task alone (selfish)
    or none (catastrophic) keep their base value.

    Args:
        weight: w_i.
        tall: the threshold lambda_t of the paper, which chooses it in 0.2 to 0.6 on validation
            data.
        least: k of the paper, a whole number.
        lambda_: alpha of the paper.

    Cost: 1 pass.
    Source: Wang et al. 2024, Localizing task information, https://arxiv.org/abs/2405.07813,
    equations 4 and 6.
    """
    update = weighted_sum(weight, deltas)
    threshold = column(tall, deltas) * (update - deltas).abs()
    users = model_sum((deltas.abs() > threshold).float())
    return add(base, update * ((users >= least).float() * lambda_))
