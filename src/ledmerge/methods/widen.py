"""WIDEN: weigh each model's change of a column by how far its length and direction have moved."""

import torch
from torch import Tensor

from ledmerge.ops.add import add
from ledmerge.ops.per_model import column, model_sum
from ledmerge.ops.svd import is_matrix
from ledmerge.types import Deltas, Grain, Weight

GRAIN: Grain = "tensor"


def widen(
    base: Weight,
    deltas: Deltas,
    *,
    above_average_value_ratio: float = 1.0,
    score_calibration_value: float = 1.0,
    lambda_: float = 1.0,
) -> Weight:
    """base + lambda * sum_i 1/2 (s_i^length + s_i^direction) * delta_i, s by column of a matrix.

    1. A column moves in length, | |theta_i| - |theta_0| |, and in direction, 1 - cos(theta_i,
       theta_0); either is replaced by its rank among the model's columns, from 0 to below 1, equal
       ones in the order of the columns.
    2. s_i = softmax of the ranks over the models; columns whose rank is above
       `above_average_value_ratio` times the model's mean get `score_calibration_value` instead.

    Tensors that are no matrix have one s for each entry, of |delta_i| in place of ranks.

    Args:
        above_average_value_ratio: t of the paper.
        score_calibration_value: s of the paper.
        lambda_: factor on the whole update.

    Cost: 2 sorts of columns.
    Source: Yu et al. 2024, Extend model merging from fine-tuned to pre-trained large language
    models, https://arxiv.org/abs/2408.03092, section 3; code yule-BUAA/MergeLLM.
    """

    def scores(importance: Tensor, unit: float) -> Tensor:
        means = importance.reshape(len(importance), importance[0].numel()).double().mean(1)
        least = column((above_average_value_ratio * means).tolist(), importance)
        shares = (importance / unit).softmax(0)
        return torch.where(importance > least, score_calibration_value, shares)

    if is_matrix(base):
        # Places, and not shares, are compared with their mean: whole numbers compare exactly.
        lengths, turns = zip(*[_moves(base, delta) for delta in deltas], strict=True)
        count = float(base.shape[1])
        by_length, by_turn = (scores(_places(torch.stack(m)), count) for m in (lengths, turns))
        factors = ((by_length + by_turn) / 2)[:, None]
    else:
        factors = scores(deltas.abs(), 1.0)
    return add(base, model_sum(factors * deltas) * lambda_)


def _moves(base: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """How far each column moves in length and in direction, float64: 1 - cos cancels."""
    old, new = base.double(), base.double() + delta.double()
    before, after = old.norm(dim=0), new.norm(dim=0)
    products = before * after
    cosines = (old * new).sum(0) / torch.where(products > 0, products, 1.0)
    turns = torch.where(delta.any(0), 1 - cosines, 0.0)
    return (after - before).abs(), turns


def _places(moves: Tensor) -> Tensor:
    """The place of each column among its row's, from 0, float32."""
    order = moves.argsort(dim=1, stable=True)
    places = torch.arange(moves.shape[1], dtype=torch.float32, device=moves.device)
    return torch.empty_like(moves, dtype=torch.float32).scatter_(
        1, order, places.expand(moves.shape)
    )
