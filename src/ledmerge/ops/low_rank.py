"""Adding the product of two thin matrices to part of a stored one.

Not by a matrix product of a library: its sums go in an order that depends on the shape, the threads
and the processor. Here every entry is a chain of single products and sums, so that its bits are the
same whatever block it is in and wherever it is computed. An entry of rank 16 takes about 2 ns.
"""

import numpy as np

from ledmerge.ops.compiled import compiled


def add_product_(
    out: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float, skip: int
) -> None:
    """Add scale * left @ right to `out`, all float32.

    Args:
        out: consecutive entries of the flat result, changed in place.
        left: (rows, rank), the rows that `out` has a part in.
        right: (rank, columns).
        skip: entries of the first row that lie before `out`.
    """
    _add(out, np.ascontiguousarray(left), right, np.float32(scale), skip)


@compiled()
def _add(out: np.ndarray, left: np.ndarray, right: np.ndarray, scale: np.float32, skip: int):
    rank, columns = right.shape
    sums = np.zeros(columns, np.float32)
    done = 0
    for row in range(left.shape[0]):
        sums[:] = 0
        for k in range(rank):
            factor = left[row, k]
            for column in range(columns):
                sums[column] += factor * right[k, column]
        first = skip if row == 0 else 0
        count = min(columns - first, out.shape[0] - done)
        for place in range(count):
            out[done + place] += scale * sums[first + place]
        done += count
