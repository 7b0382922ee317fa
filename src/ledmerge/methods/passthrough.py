"""Passthrough: one model as it is, or scaled."""

from ledmerge.errors import RecipeError
from ledmerge.ops.per_model import numbers
from ledmerge.types import Grain, Models, PerModel, Weight

GRAIN: Grain = "entry"


def passthrough(models: Models, *, scale: PerModel = 1.0) -> Weight:
    """scale * theta_1.

    For recipes that take tensors from here and there.

    Args:
        scale: factor on every entry.

    Raises:
        RecipeError: not exactly one model.

    Cost: 1 pass.
    Source: mergekit 0.1.5, 2024, https://github.com/arcee-ai/mergekit.
    """
    if len(models) != 1:
        raise RecipeError(
            f"passthrough: expected exactly 1 model, found {len(models)}; to average several, use "
            "linear"
        )
    return models[0] * numbers(scale, 1)[0]
