"""ReasonAny: reasoning lives where gradients are small, domains and safety where they are large."""

import torch

from ledmerge.ops.consensus import merge_changes
from ledmerge.ops.disjoint import alone, figures
from ledmerge.ops.per_model import numbers
from ledmerge.ops.survey import WHOLE, Scope, Survey
from ledmerge.types import Deltas, Grain, ModelOrder, PerModel, Ranked, Record, Weight, ignore

GRAIN: Grain = "entry"


def reason_any(
    base: Weight,
    deltas: Deltas,
    *,
    scores: Ranked,
    lowest: ModelOrder,
    density: PerModel = 0.05,
    weight: PerModel = 1.0,
    scope: Scope = "global",
    survey: Survey = WHOLE,
    record: Record = ignore,
) -> Weight:
    """base + sum_i w_i m_i * delta_i, m_i = band(g_i) without the bands of all other models.

    1. g_i = mean |dL/dw| over the samples (`score: grad`).
    2. band(g_i) is the `density` of entries of lowest g_i for the models in `lowest`, of highest
       g_i for all others: exactly k = int(density * n), equal scores to the lower index.
    3. An entry in two bands is nobody's and keeps its base value.

    Args:
        scores: g_i, at model i on its own data.
        lowest: models that keep their lowest band, the reasoning experts. All others, of a domain
            or of safety, keep their highest.
        density: share of entries in each model's band, in [0, 1].
        weight: lambda of the paper, which has one for all.
        scope: rank within each tensor, each layer, or the whole model (the paper).

    Differs from the released code, which takes a whole tensor where one of its entries reaches the
    cut; here each entry stands alone, as the paper's text has it. Entries whose gradient is exactly
    0, such as embeddings of tokens that the data lacks, come first in a lowest band.
    Cost: 3 to 7 passes.
    Source: ReasonAny, https://arxiv.org/abs/2601.05560; code jyyang26/ReasonAny.
    """
    shares = numbers(density, len(deltas))
    low = sorted(set(lowest))
    high = [model for model in range(len(deltas)) if model not in low]
    elected = torch.zeros_like(deltas)
    for band, largest in ((low, False), (high, True)):
        if band:
            cuts = [shares[model] for model in band]
            elected[band] = survey.top(scores[band], shares=cuts, largest=largest, scope=scope)[0]
    owned = alone(elected)
    record(**figures(elected, owned, deltas))
    return merge_changes(base, deltas, keep=owned, weight=weight)
