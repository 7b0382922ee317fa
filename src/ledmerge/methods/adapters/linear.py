"""linear: the factors are summed, A apart from B."""

from collections.abc import Sequence
from math import copysign, sqrt

import torch

from ledmerge.ops.per_model import numbers
from ledmerge.types import Factors, PerModel

RANK = "same"


def linear(factors: Sequence[Factors], *, weight: PerModel = 1.0) -> Factors:
    """(sum of sqrt(w_i) B_i)(sum of sqrt(w_i) A_i): the rank stays.

    This is not the sum of the changes: it also holds every B_i A_j. It makes sense for adapters
    that began at the same A and moved little; the report says how far from the sum it is.

    Args:
        weight: factor on each adapter's change; the sign of a negative one goes to A.

    PEFT's combination type `linear`.
    """
    weights = numbers(weight, len(factors))
    roots = [sqrt(abs(w)) for w in weights]
    a = [copysign(r, w) * a for r, w, (a, _) in zip(roots, weights, factors, strict=True)]
    b = [r * b for r, (_, b) in zip(roots, factors, strict=True)]
    return torch.stack(a).sum(0), torch.stack(b).sum(0)
