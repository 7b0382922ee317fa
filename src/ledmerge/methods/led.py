"""LED-Merging: elect the weights that matter to each task, keep the sets apart, then add."""

from typing import Literal

from ledmerge.ops.consensus import merge_changes
from ledmerge.ops.disjoint import Stack, alone, figures, first_highest
from ledmerge.ops.per_model import numbers
from ledmerge.ops.rescale import to_whole_l2
from ledmerge.ops.survey import WHOLE, Scope, Survey
from ledmerge.types import Deltas, Grain, Mask, ModelOrder, PerModel, Ranked, Record, Weight, ignore

GRAIN: Grain = "entry"

Elect = Literal["both", "expert", "base_only", "expert_only", "neither"]
Disjoint = Literal["symmetric", "priority", "winner", "conflicting", "none", "share"]


def led(
    base: Weight,
    deltas: Deltas,
    *,
    scores: Ranked,
    base_scores: Ranked,
    density: PerModel,
    weight: PerModel = 1.0,
    elect: Elect = "both",
    disjoint: Disjoint = "symmetric",
    priority: ModelOrder = (),
    select: Literal["top", "bottom"] = "top",
    rescale: Literal["none", "norm"] = "none",
    scope: Scope = "tensor",
    survey: Survey = WHOLE,
    record: Record = ignore,
) -> Weight:
    """base + sum_i w_i m_i * delta_i, where m_i is 1 on the entries that expert i owns.

    1. Elect: N_i(theta) is the `density` of entries scored highest for task i at theta, exactly
       k = int(density * n) of them, equal scores to the lower index. By default (`elect: both`)
       E_i = N_i(expert) and N_i(base).
    2. Disjoint, by default (`symmetric`): D_i = E_i without every E_j, j != i, so that an entry
       that two tasks elect goes to nobody and keeps its base value. m_i = 1 on D_i.

    Args:
        scores: importance of each entry for task i at expert i (section Locate of the paper).
        base_scores: the same for task i at the base.
        density: r_i of the paper, in [0, 1]: share of each tensor's entries that may be this
            expert's, those that score highest. Its authors took 0.1 for safety, 0.4 for math and
            0.5 for code.
        weight: lambda_i of the paper.
        elect: both (pattern 11 of the released code), expert (x1: the base is not asked),
            base_only (10), expert_only (01), neither (00).
        disjoint: what becomes of an entry elected by several experts. symmetric: nobody's.
            priority: the first's in `priority`. winner: the expert's in whose scores it ranks
            highest (lowest under `select: bottom`). conflicting: nobody's where the changes
            disagree in sign, else all are added. none: all are added. share: their mean.
        priority: experts in order of precedence; those not named follow in the recipe's order.
            Decides `priority`, and equal ranks in `winner`.
        select: elect the highest scores or the lowest.
        rescale: norm: each masked change is scaled to the Euclidean norm of the whole one, per
            tensor.
        scope: rank scores within each tensor (the paper), each layer, or the whole model.

    Differs from the released code where that departs from the paper; see docs/methods/led.md.
    Cost: 1 to 8 passes.
    Source: Ma et al. 2025, LED-Merging, https://arxiv.org/abs/2502.16770, section 4.
    """
    elected = _elect(scores, base_scores, density, elect, select, scope, survey)
    owned = _separate(elected, deltas, scores, disjoint, priority, select, survey)
    record(**figures(elected, owned, deltas))
    if rescale == "norm":
        return merge_changes(base, to_whole_l2(deltas * owned, deltas, survey), weight=weight)
    return merge_changes(base, deltas, keep=owned, weight=weight)


def _elect(
    scores: Ranked,
    base_scores: Ranked,
    density: PerModel,
    elect: Elect,
    select: str,
    scope: Scope,
    survey: Survey,
) -> Mask:
    """E_i: entries that rank as the pattern asks in the expert's and in the base's scores."""
    stacks = (scores,) if elect == "expert" else (scores, base_scores)
    shares = numbers(density, len(scores))
    tops = survey.top(*stacks, shares=shares, largest=select == "top", scope=scope)
    if elect == "expert":
        return tops[0]
    expert, base = tops
    if elect == "both":
        return expert * base
    if elect == "base_only":
        return base * (1 - expert)
    if elect == "expert_only":
        return expert * (1 - base)
    return (1 - expert) * (1 - base)


def _separate(
    elected: Mask,
    deltas: Deltas,
    scores: Ranked,
    disjoint: Disjoint,
    priority: ModelOrder,
    select: str,
    survey: Survey,
) -> Stack:
    """The share of each entry that each expert owns: 0 or 1, and a fraction under `share`."""
    if disjoint == "none":
        return elected
    if disjoint == "share":
        return elected / elected.sum(0).clamp_(min=1)
    if disjoint == "symmetric":
        return alone(elected)
    if disjoint == "conflicting":
        directions = deltas.sign() * elected
        agrees = directions.abs().sum(0) == directions.sum(0).abs()
        return elected * agrees.float()
    claims = elected
    if disjoint == "winner":
        ranks = survey.rank(scores)
        claims = elected * (1 + (ranks if select == "top" else 1 - ranks))
    return first_highest(claims, [*priority, *range(len(claims))])
