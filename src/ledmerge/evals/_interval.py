"""How sure a share or a mean is."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

Z = 1.959963984540054
"""The normal quantile of a 95 % interval."""
RESAMPLES = 2000
TAIL = RESAMPLES // 40
"""Resampled means cut off at each end: 2.5 %."""


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, within [0, 1]; (0, 1) where nothing was asked.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    assert 0 <= successes <= n, f"{successes} of {n}"
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding must not move an end past the share itself, at 0 and at 1.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def newcombe(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """The 95 % interval of the first share less the second, of the same questions.

    Args:
        both, first, second, neither: questions at which both succeeded, the first alone, and so on.

    Not empty where the two never differ. (-1, 1) where nothing was asked.

    Source: Newcombe 1998, Improved confidence intervals for the difference between binomial
    proportions based on paired data, method 10.
    """
    n = both + first + second + neither
    if n == 0:
        return -1.0, 1.0
    ours, theirs = (both + first) / n, (both + second) / n
    (low, high), (their_low, their_high) = wilson(both + first, n), wilson(both + second, n)
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    agreement = both * neither - first * second
    if agreement > 0:
        agreement = max(agreement - n / 2, 0)
    likeness = agreement / math.sqrt(product) if product else 0.0

    def distance(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * likeness * one * other + other**2))

    difference = ours - theirs
    return (
        difference - distance(ours - low, their_high - theirs),
        difference + distance(high - ours, theirs - their_low),
    )


def bootstrap(values: Sequence[float], seed: int) -> tuple[float, float]:
    """The 95 % interval of a mean, by the percentiles of 2,000 resampled means.

    Fewer than two values say nothing of how far others lie: the interval is (-inf, inf).

    Every resample is drawn on its own, so memory holds one. The numbers are Philox's raw words,
    which NumPy promises not to change; keyed by `seed`.

    Source: Efron and Tibshirani 1993, An introduction to the bootstrap, section 13.3.
    """
    count = len(values)
    if count < 2:
        return -math.inf, math.inf
    data = np.asarray(values, dtype=np.float64)
    key = hashlib.blake2b(f"{seed}\0bootstrap".encode(), digest_size=16).digest()
    bits = np.random.Philox(key=int.from_bytes(key, "little"))
    means = np.empty(RESAMPLES)
    for place in range(RESAMPLES):
        words = bits.random_raw(count) >> np.uint64(32)
        means[place] = data[(words * np.uint64(count)) >> np.uint64(32)].mean()
    means.sort()
    return float(means[TAIL]), float(means[-1 - TAIL])
