"""Fisher merging: average each entry by how sure each model is of it."""

import torch

from ledmerge.errors import RecipeError
from ledmerge.ops.add import add
from ledmerge.ops.per_model import column, model_sum, numbers
from ledmerge.ops.survey import WHOLE, Survey
from ledmerge.types import Grain, Models, PerModel, Scores, Weight

GRAIN: Grain = "entry"


def fisher(
    models: Models,
    *,
    scores: Scores,
    weight: PerModel = 1.0,
    floor: float = 1e-6,
    normalize: bool = False,
    survey: Survey = WHOLE,
) -> Weight:
    """sum_i w_i F_i theta_i / sum_i w_i F_i, where F_i is the diagonal Fisher information.

    Locate with `score: fisher`. The base, if it shall count, is one more model of the recipe, with
    `locate` data of its own; none is needed.

    Computed around the first model, so that equal models come out as they are, bit for bit.

    Args:
        scores: F_i, of model i on its own data.
        weight: lambda_i of the paper, at least 0.
        floor: the least F_i, as a share of the mean F over entries and models of the tensor; where
            no model's F reaches it, the average is by weight alone.
        normalize: divide each model's F by its mean in the tensor first, so that none wins by the
            scale of its loss alone.

    Raises:
        RecipeError: a weight is below 0, or all are 0; `floor` is below float32's least number.

    Differs from the paper in two places: its code floors F at 1e-6 itself, which lies above most
    of a language model's F and would make this `linear`; and it normalizes by the Euclidean norm
    over the whole model.
    Cost: 2 passes.
    Source: Matena & Raffel 2022, Merging models with Fisher-weighted averaging,
    https://arxiv.org/abs/2111.09832, equation 2.
    """
    weights = numbers(weight, len(models))
    if min(weights) < 0 or not any(weights):
        raise RecipeError("fisher: weights should be at least 0, and one of them above 0")
    least = torch.finfo(torch.float32).tiny
    if not floor >= least:
        raise RecipeError(f"fisher: 'floor' should be at least {least:g}, found {floor:g}")
    means = survey.total(scores) / max(1, survey.numel(scores))
    sizes = means if normalize else means.mean().expand(len(means))
    # What float32 cannot divide by says nothing: all its entries lie at the floor.
    sizes = torch.where(sizes < least, 1.0, sizes)
    informed = (scores / column(sizes.tolist(), scores)).clamp_(min=floor) * column(weights, scores)
    shares = informed / model_sum(informed)
    return add(models[0], model_sum((models - models[0]) * shares))
