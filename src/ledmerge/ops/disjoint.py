"""Keeping the entries that models elect apart, and counting what was elected and kept."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ledmerge.ops.per_model import model_sum
from ledmerge.ops.products import count_nonzero, gram, squares
from ledmerge.types import Deltas, Mask

Stack = Float[Tensor, "model *shape"]


def alone(elected: Mask) -> Mask:
    """1 where a model elects an entry that no other model elects."""
    return elected * (model_sum(elected) < 2).float()


def first_highest(claims: Stack, order: Sequence[int]) -> Mask:
    """1 for the model with the highest claim above 0; equal claims go to the first in `order`."""
    highest = claims.amax(0)
    free = (highest > 0).float()
    owned = torch.zeros_like(claims)
    for model in dict.fromkeys(order):
        owned[model] = (claims[model] == highest).float() * free
        free = free - owned[model]
    return owned


def figures(elected: Mask, owned: Stack, deltas: Deltas) -> dict[str, Tensor]:
    """What `record` takes: entries elected by two models, owned by one, and squared lengths.

    `owned` holds each model's share of each entry; `kept_square` is of what that leaves of
    `deltas`, `square` of the whole.
    """
    return {
        "elected": gram(elected),
        "owned": torch.tensor([count_nonzero(row.flatten()) for row in owned]),
        "kept_square": squares(deltas, owned),
        "square": squares(deltas),
    }
