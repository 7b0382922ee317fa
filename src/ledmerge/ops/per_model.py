"""Options that are one number for all models, or one each."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ledmerge.ops import fused
from ledmerge.types import PerModel


def numbers(option: PerModel, count: int) -> list[float]:
    """`count` numbers, one per model.

    Raises:
        ValueError: a sequence of another length.
    """
    if isinstance(option, Sequence):
        if len(option) != count:
            raise ValueError(f"{len(option)} numbers for {count} models")
        return [float(number) for number in option]
    return [float(option)] * count


def column(option: PerModel, like: Tensor) -> Tensor:
    """The option as float32 of shape (model, 1, ..., 1), to multiply a stack (model, *shape)."""
    values = torch.tensor(numbers(option, len(like)), dtype=torch.float32, device=like.device)
    return values.view(-1, *[1] * (like.ndim - 1))


def model_sum(stack: Tensor) -> Tensor:
    """Sum over models of a stack (model, *shape), added in the order of the models.

    One rounding per addition, unlike `sum` and matrix products, which may fuse or reorder near the
    end of a tensor: a block must get the bits that the whole tensor gets.
    """
    total = stack[0].clone()
    for change in stack[1:]:
        total += change
    return total


def weighted_sum(option: PerModel, stack: Tensor) -> Tensor:
    """Sum over models of option_i * stack_i, of shape (*shape)."""
    weights = column(option, stack)
    if fused.is_fusible(stack):
        return fused.weighted_sum(stack, weights.flatten())
    return model_sum(stack * weights)
