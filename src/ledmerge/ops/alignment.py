"""The direction in which a model was aligned, and what of a change lies along it."""

from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.types import ModelOrder


def along(direction: Tensor, delta: Tensor) -> Tensor:
    """V V^T delta / |V|, V the direction; 0 where V is 0.

    Not a projection: its size goes with |V|. Source: Hsu et al. 2024, Safe LoRA,
    https://arxiv.org/abs/2405.16833, section 3.
    """
    length = direction.norm().item()
    if not length:
        return delta * 0.0
    if direction.shape[0] > direction.shape[1]:
        return direction @ (direction.T @ delta) / length
    return direction @ direction.T @ delta / length


def cosine(one: Tensor, other: Tensor) -> float:
    """Of the angle between two tensors, each taken as one vector; 0 where one of them is 0."""
    one, other = one.double(), other.double()
    lengths = (one.norm() * other.norm()).item()
    return (one * other).sum().item() / lengths if lengths else 0.0


def the_one(models: ModelOrder, option: str) -> int:
    """The place of the model that an option names.

    Raises:
        RecipeError: it names none, or several.
    """
    if len(models) != 1:
        raise RecipeError(f"'{option}' should name one model, found {len(models)}")
    return models[0]
