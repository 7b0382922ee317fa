"""The weight's own size. No data."""

from ledmerge.types import Weight

NEEDS = "nothing"


def finish(weight: Weight) -> Weight:
    """|w|."""
    return weight.abs()
