"""The diagonal of the empirical Fisher information."""

from ledmerge.types import Weight

NEEDS = "gradient"
ADDS = "squares"


def update_(total: Weight, gradient: Weight) -> None:
    """Add one sample's (dL/dw)^2."""
    gradient = gradient.to(total.dtype)  # squares of bfloat16 would be rounded before the sum
    total.addcmul_(gradient, gradient)


def finish(total: Weight, num_samples: int) -> Weight:
    """Mean over the samples of (dL/dw)^2.

    Differs from Fisher merging in one place: the labels are those of the data, not drawn from the
    model. Source: Matena & Raffel 2022, https://arxiv.org/abs/2111.09832, equation 3.
    """
    return total / num_samples
