"""Safe LoRA: turn a change that leaves the alignment's direction back along it."""

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.alignment import along, cosine, the_one
from ledmerge.ops.per_model import numbers
from ledmerge.ops.svd import is_matrix
from ledmerge.types import Deltas, Grain, ModelOrder, PerModel, Weight

GRAIN: Grain = "tensor"


def safe_lora(
    base: Weight,
    deltas: Deltas,
    *,
    unaligned: ModelOrder,
    weight: PerModel = 1.0,
    threshold: float = 0.5,
) -> Weight:
    """base + sum_i w_i (C delta_i where cos(C delta_i, delta_i) <= threshold, else delta_i).

    C = V V^T / |V|, V = base - unaligned: `base_model` is the aligned model, from which the others
    were tuned, and `unaligned` the model that it was aligned from. Only the tuned models are
    merged. Tensors that are no matrix, and those that alignment left as they were (V = 0), keep
    delta_i.

    Args:
        unaligned: the model before alignment, one of the recipe's models; its weight is not used.
        weight: w_i of the tuned models; the paper has one such model.
        threshold: tau of the paper, by tensor.

    Raises:
        RecipeError: `unaligned` names none or several models, or there is no other.

    Differs from the paper in one place: delta_i is the whole change of a full fine-tune, where the
    paper has that of a LoRA. As there, C is no true projector: what it returns grows with |V|.
    Cost: 2 products a model.
    Source: Hsu et al. 2024, Safe LoRA, https://arxiv.org/abs/2405.16833, section 3.
    """
    twin = the_one(unaligned, "unaligned")
    if len(deltas) < 2:
        raise RecipeError("safe_lora: there is no model besides 'unaligned'")
    weights = numbers(weight, len(deltas))
    update = base * 0.0
    for place, delta in enumerate(deltas):
        if place == twin:
            continue
        if is_matrix(base) and deltas[twin].any():
            turned = along(deltas[twin], delta)
            delta = turned if cosine(turned, delta) <= threshold else delta
        update = update + delta * weights[place]
    return add(base, update)
