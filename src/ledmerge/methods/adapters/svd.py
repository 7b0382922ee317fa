"""svd: the matrix of a given rank that is nearest to the sum of the changes."""

from collections.abc import Sequence

from ledmerge.ops.factors import truncated, weighted_sum
from ledmerge.ops.per_model import numbers
from ledmerge.types import Factors, PerModel

RANK = "asked"


def svd(factors: Sequence[Factors], *, rank: float, weight: PerModel = 1.0) -> Factors:
    """Leading singular directions of the sum of w_i B_i A_i.

    Args:
        rank: directions kept of each module, 1 or more; the sum of the adapters' ranks keeps all.
        weight: factor on each adapter's change.

    PEFT's combination type `svd`, without its dense product.
    """
    return truncated(weighted_sum(factors, numbers(weight, len(factors))), int(rank))
