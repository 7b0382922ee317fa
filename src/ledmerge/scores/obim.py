"""OBIM's saliency: the squared error of a layer's output if a weight's change were undone."""

from torch import Tensor

from ledmerge.types import Weight

NEEDS = "input"


def update_(total: Weight, squares: Tensor) -> None:
    """Add the squares of the inputs, summed over tokens; any shape that broadcasts to `total`."""
    total.add_(squares)


def finish(total: Weight, weight: Weight, reference: Weight) -> Weight:
    """1/2 sum_x x_j^2 (w_ij - reference_ij)^2, over the response tokens x of all samples.

    Each weight by itself: the Hessian of the layer's squared output error is X^T X, and only its
    diagonal is used. An entry's input is what it multiplies, as in `wanda`.

    A reconstruction from the abstract and summaries of the paper.
    Source: Wang et al. 2025, Optimal Brain Iterative Merging, https://arxiv.org/abs/2502.12217.
    """
    return (weight - reference).square() * total / 2
