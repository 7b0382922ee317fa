"""The mean absolute gradient: how sharply the loss answers to a weight, whatever its size."""

from ledmerge.types import Weight

NEEDS = "gradient"
ADDS = "magnitudes"


def update_(total: Weight, gradient: Weight) -> None:
    """Add one sample's |dL/dw|."""
    total.add_(gradient.abs_())


def finish(total: Weight, num_samples: int) -> Weight:
    """Mean over the samples of |dL/dw|: SNIP without the factor |w|."""
    return total / num_samples
