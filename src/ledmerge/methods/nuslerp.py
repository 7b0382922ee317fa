"""NuSLERP: between two models, or their task vectors, along the arc, by weights."""

import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.per_model import numbers
from ledmerge.ops.roots import sqrt
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Grain, Models, PerModel, Weight

GRAIN: Grain = "entry"
WHOLE_WHERE = {"nuslerp_flatten": False}

NEARLY_PARALLEL = 1e-6
"""1 - cos^2 up to which two vectors lie on a line: products in float32 tell no finer."""


def nuslerp(
    models: Models,
    *,
    weight: PerModel = 1.0,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
    base: Weight | None = None,
    survey: Survey = WHOLE,
) -> Weight:
    """sin((1-t) a) / sin(a) * v_1 + sin(t a) / sin(a) * v_2, t = w_2 / (w_1 + w_2).

    v_i is theta_i, or theta_i - base where the recipe has a `base_model`, which is then added
    again; a is the angle between v_1 and v_2, a right one where either is 0. Vectors on a line,
    pointing the same way or opposite ways, are interpolated linearly.

    Args:
        weight: w_i, for exactly two models; where they sum to 0, t is 0.5.
        nuslerp_flatten: take each tensor as one vector. Without it every line along an axis has
            an angle of its own, and whole tensors are held in memory.
        nuslerp_row_wise: lines run along the first axis; without it along the last. Only where
            `nuslerp_flatten` is false.

    Raises:
        RecipeError: not exactly two models.

    Differs from mergekit 0.1.5, which has no paper, in one place: it takes vectors for parallel
    where its own rounding says so; here, within 0.001 radians.
    Cost: 2 passes.
    Source: mergekit 0.1.5, 2024, https://github.com/arcee-ai/mergekit.
    """
    if len(models) != 2:
        raise RecipeError(
            f"nuslerp: expected exactly 2 models besides the base, found {len(models)}; list two, "
            "or use multislerp"
        )
    first, second = models if base is None else models - base
    weights = numbers(weight, 2)
    total = sum(weights)
    t = 0.5 if abs(total) < 1e-6 else weights[1] / total
    if nuslerp_flatten or first.ndim < 2:
        dot, one, other = survey.total(
            torch.stack([first * second, first.square(), second.square()])
        )
    else:
        axis, (a, b) = (0 if nuslerp_row_wise else -1), (first.double(), second.double())
        dot, one, other = (row.sum(axis, keepdim=True) for row in (a * b, a.square(), b.square()))
    parts = _parts(dot, one, other, t)
    # Counted from the nearer end, so that t = 0, t = 1 and equal models come out exactly.
    start, end, part = (first, second, parts[1]) if t < 0.5 else (second, first, parts[0])
    merged = add(start * (parts[0] + parts[1]).float(), (end - start) * part.float())
    return merged if base is None else add(base, merged)


def _parts(dot: Tensor, square_1: Tensor, square_2: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """How much of either vector the point at t holds, float64 of the sums' shape."""
    lengths = sqrt(square_1 * square_2)
    cosine = torch.where(lengths > 0, dot / lengths, 0.0).clamp(-1, 1)
    is_line = 1 - cosine.square() <= NEARLY_PARALLEL
    angle = torch.where(is_line, 1.0, cosine.arccos())
    first, second = (
        torch.where(is_line, share, (share * angle).sin() / angle.sin()) for share in (1 - t, t)
    )
    return first, second
