"""PCB-Merging: weigh each change by its size within its model and its accord with the others."""

import torch
from torch import Tensor

from ledmerge.ops.add import add
from ledmerge.ops.per_model import model_sum, numbers, weighted_sum
from ledmerge.ops.survey import WHOLE
from ledmerge.types import Deltas, Grain, PerModel, Weight

GRAIN: Grain = "tensor"

OUTLIERS = 1e-4
"""Share of each model's entries that is cut down to the largest of the rest."""


def pcb(
    base: Weight,
    deltas: Deltas,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.1,
    lambda_: float = 1.0,
) -> Weight:
    """base + lambda * sum_i w_i b_i * delta_i / sum_i b_i, b the parameter competition balance.

    1. The largest 1e-4 of |delta_i| are cut down to the next one.
    2. b_i = exp(T (|delta_i| / max |delta_i|)^2) * tanh(delta_i * sum_j delta_j), T models: balance
       within the model and between models. Where it is below 0, delta_i gainsays the sum: 0.
    3. Of each model exactly max(1, int(density * n)) entries of largest b_i stay, equal ones to
       the lower index; their b_i is counted from the largest that went, and scaled to at most 1.

    Args:
        weight: w_i; the paper has none.
        density: r of the paper, share of each model's entries kept, in [0, 1].
        lambda_: lambda of the paper, which searches it in [0.8, 1.3].

    Differs from the released code in three places: it takes the whole model as one vector, counts
    sizes from the smallest |delta_i| and balances from the smallest that stayed.
    Cost: 2 selections.
    Source: Du et al. 2024, Parameter competition balancing for model merging,
    https://arxiv.org/abs/2410.02396, section 3; code duguodong7/pcb-merging.
    """
    cut = torch.stack([_without_outliers(delta) for delta in deltas])
    balances = _balances(cut.abs(), deltas * model_sum(deltas), numbers(density, len(deltas)))
    shares = balances / model_sum(balances).clamp_(min=1e-12)
    return add(base, weighted_sum(weight, cut * shares) * lambda_)


def _without_outliers(delta: Tensor) -> Tensor:
    count = int(OUTLIERS * delta.numel())
    if not count:
        return delta
    limit = delta.abs().flatten().topk(count + 1).values[-1].item()
    return delta.clamp(-limit, limit)


def _balances(sizes: Tensor, accord: Tensor, density: list[float]) -> Tensor:
    """b of steps 2 and 3; each row of a stack is a model."""
    largest = _highest(sizes)
    within = (len(sizes) * (sizes / torch.where(largest > 0, largest, 1.0)).square()).exp()
    balances = within * accord.tanh().clamp(min=0)
    (kept,) = WHOLE.top(balances, shares=density, at_least=1)
    dropped = _highest(balances * (1 - kept))
    spread = _highest(balances) - dropped
    return (balances - dropped) * kept / torch.where(spread > 0, spread, 1.0)


def _highest(stack: Tensor) -> Tensor:
    """The highest of each model, 0 if it has no entries; broadcasts against the stack."""
    rows = stack.reshape(len(stack), -1) if stack.numel() else stack.new_zeros(len(stack), 1)
    return rows.amax(1).view(-1, *[1] * (stack.ndim - 1))
