"""SNIP of the change: the loss, to first order, if a weight went back to the reference's value."""

from ledmerge.types import Weight

NEEDS = "gradient"
ADDS = "magnitudes"


def update_(total: Weight, gradient: Weight) -> None:
    """Add one sample's |dL/dw|."""
    total.add_(gradient.abs_())


def finish(total: Weight, weight: Weight, num_samples: int, reference: Weight) -> Weight:
    """Mean over the samples of |(w - reference) * dL/dw|."""
    return (weight - reference).abs() * total / num_samples
