"""RAM+ (tensor-local): as RAM, with the changes of one model alone made a little larger."""

from ledmerge.ops.add import add
from ledmerge.ops.per_model import weighted_sum
from ledmerge.ops.sharing import changed_alone_and_shared
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "entry"


def ramplus_tl(
    base: Weight,
    deltas: Deltas,
    *,
    r: float = 0.1,
    alpha: float = 0.2,
    epsilon: float = 1e-5,
    survey: Survey = WHOLE,
) -> Weight:
    """base + l_i delta_i where one model changed, + the mean of the changes where several did.

    l_i = 1 + r * min(shared_i / alone_i, alpha): the more of its entries in this tensor a model
    shares, the more is its own part made up for what averaging took.

    Args:
        r: how strongly.
        alpha: where the ratio is cut off.
        epsilon: a change counts where |delta_i| > epsilon, at least 0; smaller ones are dropped.

    Cost: 2 passes.
    Source: Reinforced Agent Merging, https://arxiv.org/abs/2601.13572; mergekit 0.1.5, which also
    takes the ratio within each tensor.
    """
    alone, shared, shared_mean = changed_alone_and_shared(deltas, epsilon)
    count = len(deltas)
    alone_counts = survey.total(alone).tolist()
    shared_counts = survey.total(shared).tolist()
    # Without entries of its own a model has none to multiply.
    least = [max(alone_count, epsilon) for alone_count in alone_counts]
    factors = [
        1 + r * min(max(shared_counts[i] / least[i], 0.0), alpha) if least[i] > 0 else 1.0
        for i in range(count)
    ]
    return add(base, weighted_sum(factors, deltas * alone) + shared_mean)
