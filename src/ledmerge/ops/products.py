"""Inner products and counts of the rows of a block.

A library goes over all rows for every figure; these loops go over a piece of all rows that fits the
first cache. The order of additions is the compiler's: the last digits may differ between
processors, as figures may; nothing that decides a weight is added here (`total.py`).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ledmerge.ops.compiled import compiled

_PIECE = 2048


def gram(stack: Tensor) -> Float[Tensor, "row row"]:
    """Inner products between the rows of a stack (row, *shape), float64."""
    rows = stack.reshape(len(stack), stack[0].numel()).contiguous()
    if stack.device.type != "cpu":
        return torch.stack([(rows * row).sum(1, dtype=torch.float64) for row in rows])
    return torch.from_numpy(_gram(rows.numpy()))


def squares(stack: Tensor, factors: Tensor | None = None) -> Float[Tensor, " row"]:
    """The squared length of each row of a stack (row, *shape), float64; with `factors` of that
    shape, of its product with them.
    """
    rows = stack.reshape(len(stack), stack[0].numel()).contiguous()
    others = rows if factors is None else factors.reshape(rows.shape).contiguous()
    if stack.device.type != "cpu":
        products = rows if factors is None else rows * others
        return (products * products).sum(1, dtype=torch.float64)
    return torch.from_numpy(_squares(rows.numpy(), others.numpy(), factors is not None))


def count_nonzero(values: Tensor) -> int:
    """Entries of a flat float32 tensor that are not 0, in a fifth of the time torch takes."""
    if values.device.type != "cpu":
        return int(values.count_nonzero())
    return int(_count_nonzero(values.numpy()))


@compiled()
def _gram(rows: np.ndarray) -> np.ndarray:
    count, entries = rows.shape
    found = np.zeros((count, count), dtype=np.float64)
    for start in range(0, entries, _PIECE):
        for i in range(count):
            for j in range(i + 1):
                part = _dot(rows[i, start : start + _PIECE], rows[j, start : start + _PIECE])
                found[i, j] += part
    for i in range(count):
        for j in range(i):
            found[j, i] = found[i, j]
    return found


@compiled()
def _squares(rows: np.ndarray, factors: np.ndarray, has_factors: bool) -> np.ndarray:
    found = np.zeros(len(rows), dtype=np.float64)
    product = np.empty(_PIECE, dtype=np.float32)
    for row in range(len(rows)):
        for start in range(0, rows.shape[1], _PIECE):
            piece = rows[row, start : start + _PIECE]
            if has_factors:
                factor = factors[row, start : start + _PIECE]
                for i in range(piece.size):
                    product[i] = piece[i] * factor[i]
                piece = product[: piece.size]
            found[row] += _dot(piece, piece)
    return found


@compiled()
def _count_nonzero(values: np.ndarray) -> int:
    count, zero = 0, np.float32(0)
    for start in range(0, values.size, _PIECE):
        piece, part = values[start : start + _PIECE], np.uint32(0)
        for i in range(piece.size):
            part += np.uint32(piece[i] != zero)
        count += part
    return count


@compiled(fastmath={"reassoc", "contract"})
def _dot(a: np.ndarray, b: np.ndarray) -> np.float32:
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total
