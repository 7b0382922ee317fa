"""NearSwap: take the other model's entries where they are near the base's, else little of them."""

from ledmerge.ops.add import add
from ledmerge.types import Grain, Weight

GRAIN: Grain = "entry"


def nearswap(base: Weight, other: Weight, *, t: float) -> Weight:
    """base + w * (other - base), w = min(t / max(|other - base|, 1e-6), 1).

    No entry moves farther than t.

    Args:
        t: distance up to which an entry is taken whole, >= 0; the source took 0.0001.

    Cost: 1 pass.
    Source: alchemonaut 2024, model card of QuartetAnemoi-70B-t0.0001; mergekit 0.1.5.
    """
    change = other - base
    return add(base, change * (t / change.abs().clamp_(min=1e-6)).clamp_(0, 1))
