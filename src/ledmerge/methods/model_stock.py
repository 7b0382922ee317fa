"""Model Stock: the average of the models, drawn towards the base by how little they agree."""

import math

from ledmerge.ops.add import add
from ledmerge.ops.gram import gram
from ledmerge.ops.per_model import model_sum
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "entry"


def model_stock(base: Weight, deltas: Deltas, *, survey: Survey = WHOLE) -> Weight:
    """base + t * mean_i delta_i, with t = N c / (1 + (N - 1) c).

    c is the mean cosine between the changes of two models, per tensor; N the number of models.
    Where they agree t is 1, at right angles 0. t is not bounded: changes that point away from each
    other give a negative t, as in mergekit; where 1 + (N - 1) c is 0 the base is kept. One model
    alone is taken as it is.

    mergekit's `filter_wise` (one t per row) is not offered.

    Source: Jang et al. 2024, Model Stock, https://arxiv.org/abs/2403.19522, equation 7.
    """
    count = len(deltas)
    products = gram(deltas, survey).tolist()
    lengths = [math.sqrt(products[i][i]) for i in range(count)]
    cosines = [
        max(-1.0, min(1.0, products[i][j] / max(lengths[i] * lengths[j], 1e-6)))
        for i in range(count)
        for j in range(i + 1, count)
    ]
    cosine = math.fsum(cosines) / len(cosines) if cosines else 1.0
    divisor = 1 + (count - 1) * cosine
    share = count * cosine / divisor if abs(divisor) >= 1e-6 else 0.0
    return add(base, model_sum(deltas) * (share / count))
