"""SafeMERGE: mix a safety-tuned model into the tensors that have left the alignment's direction."""

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.alignment import along, cosine, the_one
from ledmerge.ops.per_model import numbers
from ledmerge.ops.svd import is_matrix
from ledmerge.types import Deltas, Grain, ModelOrder, PerModel, Weight

GRAIN: Grain = "tensor"


def safemerge(
    base: Weight,
    deltas: Deltas,
    *,
    unaligned: ModelOrder,
    safe: ModelOrder,
    weight: PerModel = 1.0,
    threshold: float = 0.35,
    share: float = 0.2,
) -> Weight:
    """base + sum_i w_i delta_i, with a share of delta_safe mixed in where cos_i < threshold.

    There, delta_i becomes (1 - share) delta_i + share delta_safe. cos_i = cos(C delta_i, delta_i),
    C = V V^T / |V|, V = base - unaligned: `base_model` is the aligned model, from which the others
    were tuned, and `unaligned` the model that it was aligned from. Only the task models i are
    merged, with the safety-tuned one where it is needed. Where alignment changed nothing (V = 0),
    cos_i is 0. Tensors that are no matrix keep delta_i.

    Args:
        unaligned: the model before alignment, one of the recipe's models; its weight is not used.
        safe: the model tuned on safety data; its weight is not used.
        weight: w_i of the task models; the paper has one such model.
        threshold: tau of the paper, by tensor.
        share: of the safety-tuned model in the mix.

    Raises:
        RecipeError: `unaligned` or `safe` names none or several models, both name the same, or
            there is no other.

    Differs from the paper in one place: changes are those of full fine-tunes, where the paper has
    LoRAs.
    Cost: 2 products a model.
    Source: Djuhera et al. 2025, SafeMERGE, https://arxiv.org/abs/2503.17239, section 3; code
    aladinD/SafeMERGE.
    """
    twin, guard = the_one(unaligned, "unaligned"), the_one(safe, "safe")
    if twin == guard:
        raise RecipeError("safemerge: 'unaligned' and 'safe' should name two models")
    if len(deltas) < 3:
        raise RecipeError("safemerge: there is no model besides 'unaligned' and 'safe'")
    weights = numbers(weight, len(deltas))
    update = base * 0.0
    for place, delta in enumerate(deltas):
        if place in (twin, guard):
            continue
        if is_matrix(base) and cosine(along(deltas[twin], delta), delta) < threshold:
            delta = delta * (1 - share) + deltas[guard] * share
        update = update + delta * weights[place]
    return add(base, update)
