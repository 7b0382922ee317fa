"""SCE: select the entries on which models differ, weigh each by its change, erase minorities."""

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.consensus import Convention, agreeing
from ledmerge.ops.per_model import column, model_sum
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "entry"


def sce(
    base: Weight,
    deltas: Deltas,
    *,
    select_topk: float = 1.0,
    convention: Convention = "mergekit",
    survey: Survey = WHOLE,
) -> Weight:
    """Select, calculate, erase: base + sum_i w_i m_i delta_i / sum_i w_i m_i.

    1. Select: of the entries whose variance over the models is not 0, the `select_topk` with the
       largest variance; all others keep their base value.
    2. Calculate: w_i is the mean square of what is left of delta_i in the tensor; mergekit has all
       alike where these add up to less than 1e-6, as of most gentle fine-tunes.
    3. Erase: m_i is 1 where delta_i has the sign of the sum over models.

    Args:
        select_topk: share selected, in [0, 1]; 1 selects all entries, those of no variance too.
        convention: mergekit's weights of small changes, and + where a sum is 0; or the formula's
            for all, and nobody (the TIES paper).

    Raises:
        RecipeError: `select_topk` is outside [0, 1].

    Cost: 2 to 6 passes.
    Source: Wan et al. 2024, FuseChat, https://arxiv.org/abs/2408.07990, section 3.3; arithmetic of
    mergekit 0.1.5.
    """
    if not 0 <= select_topk <= 1:
        raise RecipeError(f"sce: 'select_topk' should be from 0 to 1, found {select_topk:g}")
    numel = survey.numel(deltas)
    if select_topk < 1:
        mean = model_sum(deltas) / len(deltas)
        variance = model_sum((deltas - mean).square())[None]
        differing = int(survey.total((variance > 0).float()).item())
        count = int(differing * select_topk)
        share = min(1.0, (count + 0.5) / numel) if count else 0.0
        (selected,) = survey.top(variance, shares=[share])
        deltas = deltas * selected
    squares = survey.total(deltas, of="squares").tolist()
    total = sum(squares)
    is_unknown = total < 1e-6 * max(numel, 1) if convention == "mergekit" else total == 0
    shares = [1 / len(squares) if is_unknown else square / total for square in squares]
    weights = column(shares, deltas) * agreeing(deltas, convention)
    divisor = model_sum(weights).clamp_(min=1e-6)
    return add(base, model_sum(deltas * weights) / divisor)
