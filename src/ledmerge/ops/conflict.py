"""How changes go together, and what became of them: figures of one block, to be summed."""

import numpy as np
from numba import njit
from torch import Tensor

from ledmerge.ops.products import count_nonzero, gram, squares

_PIECE = 2048
"""Entries gone over for all models before the next ones, within the first cache."""


def conflict_figures(base: Tensor, deltas: Tensor, merged: Tensor) -> dict[str, np.ndarray]:
    """`delta_gram` (model, model), inner products of the changes; `update_square` and `updated`,
    squared length and nonzero entries of the merged change; `conflicts`, see `count_conflicts`.

    Args:
        deltas: (model, entry).
    """
    update = merged - base
    return {
        "delta_gram": gram(deltas).cpu().numpy(),
        "conflicts": np.array(count_conflicts(deltas)),
        "update_square": squares(update[None])[0].cpu().numpy(),
        "updated": np.array(count_nonzero(update)),
    }


def count_conflicts(deltas: Tensor) -> int:
    """Entries of a block (model, entry) where one change is positive and another negative."""
    if deltas.device.type != "cpu":
        return int(((deltas.amax(0) > 0) & (deltas.amin(0) < 0)).sum())
    return int(_count(deltas.numpy()))


@njit(nogil=True, cache=True)
def _count(deltas: np.ndarray) -> int:
    high, low = np.empty(_PIECE, dtype=np.float32), np.empty(_PIECE, dtype=np.float32)
    zero, count = np.float32(0), 0
    for start in range(0, deltas.shape[1], _PIECE):
        high[:], low[:] = 0, 0
        for model in range(len(deltas)):
            row = deltas[model, start : start + _PIECE]
            for i in range(row.size):
                value, above, below = row[i], high[i], low[i]
                high[i] = value if value > above else above
                low[i] = value if value < below else below
        both = np.uint32(0)
        for i in range(_PIECE):
            both += np.uint32((high[i] > zero) & (low[i] < zero))
        count += both
    return count
