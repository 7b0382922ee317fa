"""How changes go together, and what became of them: figures of one block, to be summed."""

import numpy as np
from torch import Tensor

from ledmerge.ops.compiled import compiled
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


@compiled()
def _count(deltas: np.ndarray) -> int:
    signs, both, count = np.empty(_PIECE, dtype=np.uint32), np.uint32(3), 0
    for start in range(0, deltas.shape[1], _PIECE):
        signs[:] = 0
        for model in range(len(deltas)):
            _mark_signs(deltas[model, start : start + _PIECE], signs)
        part = np.uint32(0)
        for i in range(_PIECE):
            part += np.uint32(signs[i] == both)
        count += part
    return count


@compiled()
def _mark_signs(row: np.ndarray, signs: np.ndarray) -> None:
    """Bit 0 where an entry is above 0, bit 1 where one is below."""
    zero, one = np.float32(0), np.uint32(1)
    for i in range(row.size):
        signs[i] |= np.uint32(row[i] > zero) | (np.uint32(row[i] < zero) << one)
