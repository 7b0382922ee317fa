"""RAM: copy the changes that one model alone made, average those that several made."""

from ledmerge.ops.add import add
from ledmerge.ops.per_model import model_sum
from ledmerge.ops.sharing import changed_alone_and_shared
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "entry"


def ram(base: Weight, deltas: Deltas, *, epsilon: float = 1e-5) -> Weight:
    """base + the one delta_i where one model changed, + the mean of those that did where several.

    Made for experts of reinforcement learning, whose changes are sparse.

    Args:
        epsilon: a change counts where |delta_i| > epsilon, at least 0; smaller ones are dropped.

    Cost: 1 pass.
    Source: Reinforced Agent Merging, https://arxiv.org/abs/2601.13572; mergekit 0.1.5.
    """
    alone, _, shared_mean = changed_alone_and_shared(deltas, epsilon)
    return add(base, model_sum(deltas * alone) + shared_mean)
