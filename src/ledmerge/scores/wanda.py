"""Wanda: the weight times the norm of what it multiplies. Forward passes only."""

from torch import Tensor

from ledmerge.ops.roots import sqrt
from ledmerge.types import Weight

NEEDS = "input"


def update_(total: Weight, squares: Tensor) -> None:
    """Add the squares of the inputs, summed over tokens; any shape that broadcasts to `total`."""
    total.add_(squares)


def finish(total: Weight, weight: Weight) -> Weight:
    """|w_ij| * ||x_j||, the norm taken over the response tokens of all samples.

    An entry's input is what it multiplies: the feature of a linear layer, one for each time a
    token is looked up or a bias is added, the normalised feature of a norm.

    Source: Sun et al. 2024, https://arxiv.org/abs/2306.11695, equation 1.
    """
    return weight.abs() * sqrt(total)
