"""NearSwap: take the other model's entries where they are near the base's, else little of them."""

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.types import Grain, Weight

GRAIN: Grain = "entry"


def nearswap(base: Weight, other: Weight, *, t: float) -> Weight:
    """base + w * (other - base), w = min(t / max(|other - base|, 1e-6), 1).

    No entry moves farther than t.

    Args:
        t: distance up to which an entry is taken whole, >= 0; the source took 0.0001.

    Raises:
        RecipeError: `t` is below 0.

    Cost: 1 pass.
    Source: alchemonaut 2024, model card of QuartetAnemoi-70B-t0.0001; mergekit 0.1.5.
    """
    if t < 0:
        raise RecipeError(f"nearswap: 't' should be at least 0, found {t:g}")
    change = other - base
    return add(base, change * (t / change.abs().clamp_(min=1e-6)).clamp_(0, 1))
