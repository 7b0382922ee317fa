"""Sums over a whole tensor that come out the same however the tensor is cut."""

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ledmerge.ops.compiled import compiled

_LANES = 16

Of = Literal["values", "magnitudes", "squares"]
"""What is summed of each entry."""

_VALUES, _MAGNITUDES, _SQUARES = range(3)


def block_total(rows: Tensor, of: Of = "values") -> list[float]:
    """The sum of each row of one block, (row, entry) float32, added in float64 in a fixed order."""
    if rows.device.type != "cpu":
        taken = {"values": rows, "magnitudes": rows.abs(), "squares": rows.square()}[of]
        return taken.double().sum(1).tolist()
    what = {"values": _VALUES, "magnitudes": _MAGNITUDES, "squares": _SQUARES}[of]
    return [_lane_sum(row, what) for row in rows.contiguous().numpy()]


def grand_total(block_totals: Iterable[list[float]]) -> Tensor:
    """The sum of each row over all blocks: exactly rounded, so the order does not matter."""
    rows = zip(*block_totals, strict=True)
    return torch.tensor([_exact_sum(row) for row in rows], dtype=torch.float64)


def _exact_sum(values: Iterable[float]) -> float:
    try:
        return math.fsum(values)
    except ValueError:  # infinities of both signs
        return math.nan


@compiled()
def _lane_sum(values: np.ndarray, of: int) -> float:
    # Sixteen running sums let the compiler use vector registers without reordering anything. The
    # choice inside costs nothing: it is the same in every turn, and is made outside the loop.
    lanes = np.zeros(_LANES, dtype=np.float64)
    whole = values.size - values.size % _LANES
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            lanes[lane] += _taken(values[start + lane], of)
    for place in range(whole, values.size):
        lanes[place - whole] += _taken(values[place], of)
    total = 0.0
    for lane in range(_LANES):
        total += lanes[lane]
    return total


@compiled()
def _taken(value: np.float32, of: int) -> np.float32:
    if of == _MAGNITUDES:
        return abs(value)
    return value * value if of == _SQUARES else value
