"""CABS: prune changes in small groups, never where an earlier model has kept an entry."""

import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.per_model import numbers, weighted_sum
from ledmerge.types import Deltas, Grain, ModelOrder, PerModel, Weight

GRAIN: Grain = "entry"


def cabs(
    base: Weight,
    deltas: Deltas,
    *,
    weight: PerModel = 1.0,
    density: PerModel = 0.5,
    group: float = 128.0,
    priority: ModelOrder = (),
) -> Weight:
    """base + sum_i w_i m_i * delta_i, with masks that are disjoint and balanced.

    The flat tensor is cut into groups of `group` entries. Model by model, each keeps in every group
    the int(density * group) largest magnitudes among the entries that no model before it has kept.
    Equal magnitudes go to the lower index.

    Args:
        weight: w_i; lambda_i of the paper.
        density: n/m of the paper, kept of each group, in [0, 1]; the paper uses 64:128 and 32:128.
        group: m of the paper, a power of two of at most 1024.
        priority: models in the order they choose; those not named follow in the recipe's order.

    Raises:
        RecipeError: `group` is not such a number.

    Cost: 1 pass.
    Source: Yang et al. 2025, CABS, https://arxiv.org/abs/2503.01874, section 4.
    """
    size = int(group)
    if size != group or not 1 <= size <= 1024 or BLOCK % size:
        raise RecipeError(f"cabs: 'group' should be a power of two up to 1024, found {group:g}")
    shares = numbers(density, len(deltas))
    kept = torch.zeros_like(deltas)
    free = torch.ones_like(base)
    for i in dict.fromkeys([*priority, *range(len(deltas))]):
        mask = _largest_of_groups(deltas[i] * free, free, int(shares[i] * size), size)
        kept[i] = deltas[i] * mask
        free = free - mask
    return add(base, weighted_sum(weight, kept))


def _largest_of_groups(delta: Tensor, free: Tensor, count: int, size: int) -> Tensor:
    """1 on the `count` largest free magnitudes of every group of `size` flat entries."""
    numel = delta.numel()
    magnitudes = torch.full((-(-numel // size) * size,), -1.0, device=delta.device)
    magnitudes[:numel] = torch.where(free.flatten() > 0, delta.abs().flatten(), -1.0)
    groups = magnitudes.view(-1, size)
    order = groups.argsort(dim=1, descending=True, stable=True)[:, :count]
    mask = torch.zeros_like(groups).scatter_(1, order, 1.0) * (groups >= 0)
    return mask.flatten()[:numel].view(delta.shape)
