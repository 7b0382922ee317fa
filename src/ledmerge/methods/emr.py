"""EMR: one change that agrees with most models, and beside it what of it each model needs."""

import torch

from ledmerge.ops.add import add
from ledmerge.ops.per_model import model_sum
from ledmerge.types import Deltas, Grain, Keep, Record, Weight, ignore

GRAIN: Grain = "entry"


def emr(base: Weight, deltas: Deltas, *, keep: Keep = ignore, record: Record = ignore) -> Weight:
    """base + tau, tau = g * max of |delta_i| over the models with sign g, g = sign(sum_i delta_i).

    Beside the merged weights a merge keeps, for each model, its mask m_i = 1 where delta_i and tau
    have the same sign (one bit an entry), and what its rescaler r_i = sum |delta_i| / sum |m_i tau|
    is made of, the sums over the whole model. `ledmerge.unmask` rebuilds the model of one task from
    them, base + r_i m_i * tau. That is what the paper evaluates, and the task has to be known; the
    merged weights by themselves serve all tasks at once, less well.

    Differs from the released code in one place: where the changes add up to 0 nobody is elected,
    there those below 0.
    Cost: 1 pass.
    Source: Huang et al. 2024, EMR-Merging, https://arxiv.org/abs/2405.17461.
    """
    direction = model_sum(deltas).sign()
    along = deltas * direction
    largest = along.amax(0).clamp_(min=0)
    masks = (along > 0).float()
    keep(masks=masks)
    record(size=_sums(deltas.abs()), kept=_sums(masks * largest))
    return add(base, largest * direction)


def _sums(stack: torch.Tensor) -> torch.Tensor:
    """Of each model's entries, (model,)."""
    return stack.reshape(len(stack), -1).sum(1, dtype=torch.float64)
