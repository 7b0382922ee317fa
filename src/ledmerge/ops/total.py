"""Sums over a whole tensor that come out the same however the tensor is cut."""

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from numba import njit
from torch import Tensor

_LANES = 16


Of = Literal["values", "magnitudes", "squares"]
"""What is summed of each entry."""


def block_total(rows: Tensor, of: Of = "values") -> list[float]:
    """The sum of each row of one block, (row, entry) float32, added in float64 in a fixed order."""
    if rows.device.type != "cpu":
        taken = {"values": rows, "magnitudes": rows.abs(), "squares": rows.square()}[of]
        return taken.double().sum(1).tolist()
    add = {"values": _lane_sum, "magnitudes": _lane_sum_abs, "squares": _lane_sum_square}[of]
    return [add(row) for row in rows.contiguous().numpy()]


def grand_total(block_totals: Iterable[list[float]]) -> Tensor:
    """The sum of each row over all blocks: exactly rounded, so the order does not matter."""
    rows = zip(*block_totals, strict=True)
    return torch.tensor([_exact_sum(row) for row in rows], dtype=torch.float64)


def _exact_sum(values: Iterable[float]) -> float:
    try:
        return math.fsum(values)
    except ValueError:  # infinities of both signs
        return math.nan


# Three loops and not one with a choice inside, which the compiler would not vectorize. Sixteen
# running sums let it use vector registers without reordering anything.


@njit(nogil=True, cache=True)
def _lane_sum(values: np.ndarray) -> float:
    lanes = np.zeros(_LANES, dtype=np.float64)
    whole = values.size - values.size % _LANES
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            lanes[lane] += values[start + lane]
    for place in range(whole, values.size):
        lanes[place - whole] += values[place]
    return _added(lanes)


@njit(nogil=True, cache=True)
def _lane_sum_abs(values: np.ndarray) -> float:
    lanes = np.zeros(_LANES, dtype=np.float64)
    whole = values.size - values.size % _LANES
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            lanes[lane] += abs(values[start + lane])
    for place in range(whole, values.size):
        lanes[place - whole] += abs(values[place])
    return _added(lanes)


@njit(nogil=True, cache=True)
def _lane_sum_square(values: np.ndarray) -> float:
    lanes = np.zeros(_LANES, dtype=np.float64)
    whole = values.size - values.size % _LANES
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            lanes[lane] += values[start + lane] * values[start + lane]
    for place in range(whole, values.size):
        lanes[place - whole] += values[place] * values[place]
    return _added(lanes)


@njit(nogil=True, cache=True)
def _added(lanes: np.ndarray) -> float:
    total = 0.0
    for lane in range(_LANES):
        total += lanes[lane]
    return total
