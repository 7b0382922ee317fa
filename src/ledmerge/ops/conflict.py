"""Counting the entries on which changes pull in opposite directions."""

import numpy as np
from numba import njit
from torch import Tensor


def count_conflicts(deltas: Tensor) -> int:
    """Entries of a block (model, entry) where one change is positive and another negative."""
    if deltas.device.type != "cpu":
        return int(((deltas.amax(0) > 0) & (deltas.amin(0) < 0)).sum())
    return _count(deltas.numpy())


@njit(nogil=True, cache=True)
def _count(deltas: np.ndarray) -> int:
    models, entries = deltas.shape
    high, low = deltas[0].copy(), deltas[0].copy()
    for model in range(1, models):
        for i in range(entries):
            high[i] = max(high[i], deltas[model, i])
            low[i] = min(low[i], deltas[model, i])
    count = 0
    for i in range(entries):
        count += (high[i] > 0) & (low[i] < 0)
    return count
