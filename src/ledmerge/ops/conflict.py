"""How changes go together, and what became of them: figures of one block, to be summed."""

import numpy as np
from numba import njit
from torch import Tensor


def conflict_figures(base: Tensor, deltas: Tensor, merged: Tensor) -> dict[str, np.ndarray]:
    """`delta_gram` (model, model), inner products of the changes; `update_square` and `updated`,
    squared length and nonzero entries of the merged change; `conflicts`, see `count_conflicts`.

    Args:
        deltas: (model, entry).
    """
    return {
        "delta_gram": (deltas @ deltas.T).double().cpu().numpy(),
        "conflicts": np.array(count_conflicts(deltas)),
        **_update_figures(base, merged),
    }


def count_conflicts(deltas: Tensor) -> int:
    """Entries of a block (model, entry) where one change is positive and another negative."""
    if deltas.device.type != "cpu":
        return int(((deltas.amax(0) > 0) & (deltas.amin(0) < 0)).sum())
    return _count(deltas.numpy())


def _update_figures(base: Tensor, merged: Tensor) -> dict[str, np.ndarray]:
    if base.device.type != "cpu":
        update = merged - base
        square, count = float(update @ update), int(update.count_nonzero())
    else:
        square, count = _update(base.numpy(), merged.numpy())
    return {"update_square": np.array(square), "updated": np.array(count)}


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


@njit(nogil=True, cache=True)
def _update(base: np.ndarray, merged: np.ndarray) -> tuple[float, int]:
    # Sixteen running sums let the compiler use vector registers without reordering anything.
    lanes, count = np.zeros(16, dtype=np.float32), 0
    whole = base.size - base.size % 16
    for start in range(0, whole, 16):
        for lane in range(16):
            update = merged[start + lane] - base[start + lane]
            lanes[lane] += update * update
            count += update != 0
    for place in range(whole, base.size):
        update = merged[place] - base[place]
        lanes[place - whole] += update * update
        count += update != 0
    total = 0.0
    for lane in range(16):
        total += lanes[lane]
    return total, count
