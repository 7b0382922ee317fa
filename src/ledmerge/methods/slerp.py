"""SLERP: from one model to the other along the arc between them."""

import math

import torch

from ledmerge.ops.add import add
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Grain, Weight

GRAIN: Grain = "entry"

NEARLY_PARALLEL = 0.9995


def slerp(base: Weight, other: Weight, *, t: float, survey: Survey = WHOLE) -> Weight:
    """sin((1-t) a) / sin(a) * base + sin(t a) / sin(a) * other, a the angle between the two.

    Each tensor is one vector. Where |cos a| > 0.9995 the two are interpolated linearly. The vectors
    keep their own lengths, as in mergekit.

    Args:
        t: 0 gives the base, 1 the other model, 0.5 the middle between them.

    Cost: 2 passes.
    Source: Shoemake 1985, Animating rotation with quaternion curves; conventions of mergekit 0.1.5.
    """
    dot, square_0, square_1 = survey.total(
        torch.stack([base * other, base.square(), other.square()])
    ).tolist()
    lengths = math.sqrt(square_0 * square_1)
    cosine = max(-1.0, min(1.0, dot / lengths)) if lengths > 1e-16 else 0.0
    if abs(cosine) > NEARLY_PARALLEL:
        # Counted from the nearer end, so that t = 0, t = 1 and equal models come out exactly.
        change = other - base
        return add(base, change * t) if t < 0.5 else add(other, change * (t - 1))
    angle = math.acos(cosine)
    parts = [math.sin(share * angle) / math.sin(angle) for share in (1 - t, t)]
    return add(base * parts[0], other * parts[1])
