"""SNIP: the change of the loss, to first order, if a weight were set to zero."""

from ledmerge.types import Weight

NEEDS = "gradient"
ADDS = "magnitudes"


def update_(total: Weight, gradient: Weight) -> None:
    """Add one sample's |dL/dw|."""
    total.add_(gradient.abs_())


def finish(total: Weight, weight: Weight, num_samples: int) -> Weight:
    """Mean over the samples of |w * dL/dw|.

    The weight is the same for every sample, so it is multiplied once: |w| * total / num_samples.
    Absolute values are taken before the mean; the gradient of a mean loss would let samples cancel.

    Source: Lee et al. 2019, https://arxiv.org/abs/1810.02340; averaged over samples as in
    Ma et al. 2025 (LED-Merging), https://arxiv.org/abs/2502.16770.
    """
    return weight.abs() * total / num_samples
