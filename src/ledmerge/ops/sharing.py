"""Which entries one model alone has changed, and which several have."""

from ledmerge.errors import RecipeError
from ledmerge.ops.per_model import model_sum
from ledmerge.types import Deltas, Mask, Weight


def changed_alone_and_shared(deltas: Deltas, epsilon: float) -> tuple[Mask, Mask, Weight]:
    """(1 where only this model changed, 1 where with others, mean of the shared changes).

    A change counts where |delta| > epsilon. The mean, (*shape), is over those that changed.

    Raises:
        RecipeError: `epsilon` is below 0.
    """
    if epsilon < 0:
        raise RecipeError(f"'epsilon' should be at least 0, found {epsilon:g}")
    changed = (deltas.abs() > epsilon).float()
    count = model_sum(changed)
    alone = changed * (count == 1).float()
    shared = changed * (count > 1).float()
    return alone, shared, model_sum(deltas * shared) / count.clamp(min=1)
