"""Keeping a middle band of magnitudes: neither the largest entries of a change nor the smallest."""

import torch

from ledmerge.errors import RecipeError
from ledmerge.ops.per_model import numbers
from ledmerge.ops.survey import Survey
from ledmerge.types import Deltas, Mask, PerModel


def middle(deltas: Deltas, *, density: PerModel, gamma: PerModel, survey: Survey) -> Mask:
    """1 on exactly k = int(density * n) entries of each model, below its largest int(gamma * n).

    Where fewer than k would be left, fewer large ones are passed over; equal magnitudes go to the
    lower index. Source: mergekit 0.1.5, `magnitude_outliers`.

    Raises:
        RecipeError: a gamma is outside [0, 1].
    """
    numel = survey.numel(deltas)
    to_cut, to_skip = [], []
    for share, outliers in zip(
        numbers(density, len(deltas)), numbers(gamma, len(deltas)), strict=True
    ):
        if not 0 <= outliers <= 1:
            raise RecipeError(f"'gamma' should be from 0 to 1, found {outliers:g}")
        kept = int(min(share, 1.0) * numel)
        skipped = min(int(outliers * numel), numel - kept)
        to_cut.append(_share(kept + skipped, numel))
        to_skip.append(_share(skipped, numel))
    # Both cuts in one question: each question is two more passes over the tensor.
    (masks,) = survey.top(torch.cat([deltas, deltas]), shares=[*to_cut, *to_skip])
    return masks[: len(deltas)] - masks[len(deltas) :]


def _share(count: int, numel: int) -> float:
    """A share that `Survey.top` makes `count` of, whatever the rounding."""
    return min(1.0, (count + 0.5) / numel) if numel else 0.0
