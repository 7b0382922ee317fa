"""The words for shapes, used in every signature.

The axis `model` runs over the experts in the order of the recipe; `*shape` is the shape of one
weight tensor, or of one flat block of it. Shapes are checked at run time under pytest only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float, UInt8
from torch import Tensor

Weight = Float[Tensor, "*shape"]
"""One tensor of one model."""

Models = Float[Tensor, "model *shape"]
"""The same tensor of every model."""

Deltas = Float[Tensor, "model *shape"]
"""Expert minus base, the task vectors."""

Scores = Float[Tensor, "model *shape"]
"""Importance of every entry for each expert's task, >= 0."""

Ranked = Float[Tensor, "model *shape"] | UInt8[Tensor, "model *shape"]
"""Scores of a method that asks nothing of them but `survey.top`: their values, or their rank codes
(`ops/rank_codes.py`). A method that computes with them takes `Scores`, and is given no codes."""

Grams = Float[Tensor, "model d_in d_in"]
"""Mean of x x^T over the tokens x that a weight multiplies, on each expert's data."""

Mask = Float[Tensor, "model *shape"]
"""1 where an entry is chosen for a model, else 0. Float32, so that masking is a product: in torch
on a CPU that takes 0.15 ns an entry, `where` with a boolean mask 4 ns."""

PerModel = float | Sequence[float]
"""An option that may differ between experts: one number for all, or one each."""

Factors = tuple[Float[Tensor, "_ columns"], Float[Tensor, "rows _"]]
"""A (rank, columns) and B (rows, rank) of a low-rank change B A, float32; an adapter's scale is in
both, its root in each."""

Grain = Literal["entry", "row", "tensor"]
"""What a method is given at a time: a flat block of entries; the rows of the last axis that a block
touches, whole, (rows, n), a vector as (n,); or a whole tensor in its shape."""

Draw = Callable[[Tensor], Tensor]
"""Uniform numbers in [0, 1), float32, in the shape (model, *shape) of its argument."""

Record = Callable[..., None]
"""Takes figures to be summed over all blocks of a tensor. Those that `report` knows: `elected`
(model, model), the entries elected by both; `owned`, `kept_square`, `square` (model,), see
`methods/led.py`. Others land in `ledmerge.json`."""

Keep = Callable[..., None]
"""Takes `masks` (model, *shape), 0 or 1, which the loop writes beside the merged weights."""

ModelOrder = Sequence[int]
"""Places of models, first in precedence first. Recipes name models instead."""


@dataclass(frozen=True)
class Earlier:
    """What a merge left of one tensor for the merge that goes on with it, as its first model.

    Attributes:
        lengths: Frobenius norm of the change of each model that went in.
        merged: that of their sum, before it was brought to its final length.
        rounding: relative error of the stored weights, at most.
    """

    lengths: Sequence[float]
    merged: float
    rounding: float


def ignore(**values: Tensor) -> None:
    """The `Record` and `Keep` of callers who want the weights alone."""
