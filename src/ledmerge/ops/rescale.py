"""Bringing what a mask left of a change back to the size of the whole change, per tensor."""

import torch
from torch import Tensor

from ledmerge.ops.per_model import column
from ledmerge.ops.roots import sqrt
from ledmerge.ops.survey import Survey
from ledmerge.types import Deltas


def to_whole_l1(kept: Deltas, whole: Deltas, survey: Survey) -> Deltas:
    """`kept` with each model's sum of magnitudes made that of `whole` (mergekit's `rescale`)."""
    before, after = survey.total(whole, kept, of="magnitudes").view(2, -1)
    return _scaled(kept, before, after)


def to_whole_l2(kept: Deltas, whole: Deltas, survey: Survey) -> Deltas:
    """`kept` with each model's Euclidean norm made that of `whole`."""
    before, after = sqrt(survey.total(whole, kept, of="squares")).view(2, -1)
    return _scaled(kept, before, after)


def _scaled(kept: Deltas, before: Tensor, after: Tensor) -> Deltas:
    """Each model's changes times before / after; as they are where either is near 0."""
    is_near_zero = (before < 1e-7) | (after < 1e-7)
    ratio = torch.where(is_near_zero, torch.ones_like(before), before / after)
    return kept * column(ratio.tolist(), kept)
