"""cat: all adapters side by side, which is exactly the sum of their changes."""

from collections.abc import Sequence

from ledmerge.ops.factors import weighted_sum
from ledmerge.ops.per_model import numbers
from ledmerge.types import Factors, PerModel

RANK = "sum"


def cat(factors: Sequence[Factors], *, weight: PerModel = 1.0) -> Factors:
    """Sum of w_i B_i A_i, exact; the ranks add up.

    Args:
        weight: factor on each adapter's change.

    PEFT's combination type `cat`.
    """
    return weighted_sum(factors, numbers(weight, len(factors)))
