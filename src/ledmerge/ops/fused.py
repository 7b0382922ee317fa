"""Sums over models as one loop over a block, on a CPU.

torch writes a block-sized intermediate for every operation and takes the interpreter's lock in
between, so that two threads wait for each other more than they work. These loops do the same
operations in the same order, each rounded once (numba fuses none unless told to), so they give the
same bits as torch's; `tests/ops/test_fused.py` compares.
"""

import numpy as np
import torch
from torch import Tensor

from ledmerge.ops.compiled import compiled

CHUNK = 2048
"""Entries gone over for all models before the next ones: their sums stay in the first cache."""


SMALL = 64
"""Below so many entries torch is as fast, and trying options in a plan loads no compiled loop:
the first one takes as long as the rest of the plan."""


def is_fusible(*tensors: Tensor) -> bool:
    """Whether the loops can run, and pay, over these tensors."""
    return all(
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.is_contiguous()
        and tensor.numel() >= SMALL
        for tensor in tensors
    )


def weighted_sum(stack: Tensor, weights: Tensor) -> Tensor:
    """sum_i w_i x_i over the models of a stack (model, *shape), in their order."""
    out = torch.empty(stack.shape[1:])
    _weighted_sum(_rows(stack), weights.numpy(), _flat(out))
    return out


def add_distances(models: Tensor, origin: int, weights: Tensor, total: float) -> Tensor:
    """total * x_origin + sum_i w_i (x_i - x_origin) over models (model, *shape)."""
    out = torch.empty(models.shape[1:])
    _add_distances(_rows(models), origin, weights.numpy(), np.float32(total), _flat(out))
    return out


def add(weight: Tensor, change: Tensor) -> Tensor:
    """See `ops.add.add`."""
    out = torch.empty_like(weight)
    _add(_flat(weight), _flat(change), _flat(out))
    return out


def keep_below(changes: Tensor, drawn: Tensor, chances: Tensor) -> Tensor:
    """The changes (model, *shape) where the number drawn is below the chance, else 0.

    Args:
        chances: (model, 1, ..., 1), or one for each entry.
    """
    out = torch.empty_like(changes)
    _keep_below(_rows(changes), _rows(drawn), _rows(chances), _rows(out))
    return out


def add_weighted(
    base: Tensor,
    changes: Tensor,
    keep: Tensor | None,
    weights: Tensor,
    divisor: float,
    scale: float,
) -> Tensor:
    """base + scale * (the sum of the weighted changes, where `keep` is 1, / divisor)."""
    out = torch.empty_like(base)
    _add_weighted(
        _flat(base),
        _rows(changes),
        _rows(changes if keep is None else keep),
        keep is not None,
        weights.numpy(),
        np.float32(divisor),
        np.float32(scale),
        _flat(out),
    )
    return out


def add_agreeing(
    base: Tensor,
    changes: Tensor,
    keep: Tensor | None,
    weights: Tensor,
    scale: float,
    normalize: bool,
    ties_up: bool,
) -> Tensor:
    """base + scale * the sum, or mean, of the weighted changes that agree with their sum's sign.

    Args:
        keep: only the changes where this is 1 count.
        ties_up: a sum of 0 elects + (mergekit); else nobody (the paper).
    """
    out = torch.empty_like(base)
    _add_agreeing(
        _flat(base),
        _rows(changes),
        _rows(changes if keep is None else keep),
        keep is not None,
        weights.numpy(),
        np.float32(scale),
        normalize,
        np.float32(1 if ties_up else 0),
        _flat(out),
    )
    return out


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.view(-1).numpy()


def _rows(stack: Tensor) -> np.ndarray:
    return stack.view(len(stack), stack[0].numel()).numpy()


@compiled()
def _weighted_sum(rows: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    for start in range(0, out.size, CHUNK):
        _sum_chunk(rows, start, weights, out[start : start + CHUNK])


@compiled()
def _sum_chunk(rows: np.ndarray, start: int, weights: np.ndarray, sums: np.ndarray) -> None:
    """The weighted sum of entries `start` and on, as many as `sums` holds."""
    stop = start + sums.size
    # Row by row, cut on their last axis alone: the compiler knows that these lie without gaps.
    _set_product(rows[0, start:stop], weights[0], sums)
    for model in range(1, len(rows)):
        _add_product(rows[model, start:stop], weights[model], sums)


@compiled()
def _set_product(row: np.ndarray, weight: np.float32, sums: np.ndarray) -> None:
    for i in range(sums.size):
        sums[i] = row[i] * weight


@compiled()
def _add_product(row: np.ndarray, weight: np.float32, sums: np.ndarray) -> None:
    for i in range(sums.size):
        sums[i] += row[i] * weight


@compiled()
def _keep_below(
    changes: np.ndarray, drawn: np.ndarray, chances: np.ndarray, out: np.ndarray
) -> None:
    for model in range(len(changes)):
        row, numbers, limits, kept = changes[model], drawn[model], chances[model], out[model]
        if limits.size == 1:
            chance = limits[0]
            for i in range(row.size):
                kept[i] = row[i] * np.float32(numbers[i] < chance)
        else:
            for i in range(row.size):
                kept[i] = row[i] * np.float32(numbers[i] < limits[i])


@compiled()
def _add_distances(
    rows: np.ndarray, origin: int, weights: np.ndarray, total: np.float32, out: np.ndarray
) -> None:
    centers, distances = np.empty(CHUNK, dtype=np.float32), np.empty(CHUNK, dtype=np.float32)
    sums = np.empty(CHUNK, dtype=np.float32)
    for start in range(0, out.size, CHUNK):
        merged, center = out[start : start + CHUNK], rows[origin, start : start + CHUNK]
        size = merged.size
        _set_product(center, total, centers[:size])
        for model in range(len(rows)):
            row = rows[model, start : start + CHUNK]
            for i in range(size):
                distances[i] = row[i] - center[i]
            if model == 0:
                _set_product(distances[:size], weights[0], sums[:size])
            else:
                _add_product(distances[:size], weights[model], sums[:size])
        _add(centers[:size], sums[:size], merged)


@compiled(error_model="numpy")
def _add_weighted(
    base: np.ndarray,
    changes: np.ndarray,
    keep: np.ndarray,
    is_masked: bool,
    weights: np.ndarray,
    divisor: np.float32,
    scale: np.float32,
    out: np.ndarray,
) -> None:
    kept = np.empty((len(changes), CHUNK), dtype=np.float32)
    sums = np.empty(CHUNK, dtype=np.float32)
    for start in range(0, out.size, CHUNK):
        merged = out[start : start + CHUNK]
        size = merged.size
        _sum_kept(changes, keep, is_masked, start, weights, kept, sums[:size])
        if divisor != np.float32(1):
            for i in range(size):
                sums[i] /= divisor
        for i in range(size):
            sums[i] *= scale
        _add(base[start : start + CHUNK], sums, merged)


@compiled()
def _sum_kept(
    changes: np.ndarray,
    keep: np.ndarray,
    is_masked: bool,
    start: int,
    weights: np.ndarray,
    kept: np.ndarray,
    sums: np.ndarray,
) -> None:
    """The weighted sum of a chunk of what `keep` lets through, which stays in `kept`."""
    if is_masked:
        _mask(changes, keep, start, sums.size, kept)
        _sum_chunk(kept, 0, weights, sums)
    else:
        _sum_chunk(changes, start, weights, sums)


@compiled()
def _mask(rows: np.ndarray, keep: np.ndarray, start: int, size: int, kept: np.ndarray) -> None:
    for model in range(len(rows)):
        row, mask = rows[model, start : start + size], keep[model, start : start + size]
        product = kept[model, :size]
        for i in range(size):
            product[i] = row[i] * mask[i]


@compiled()
def _add(weight: np.ndarray, change: np.ndarray, out: np.ndarray) -> None:
    zero = np.float32(0)
    for i in range(out.size):
        out[i] = weight[i] - (zero - change[i])


@compiled(error_model="numpy")
def _add_agreeing(
    base: np.ndarray,
    changes: np.ndarray,
    keep: np.ndarray,
    is_masked: bool,
    weights: np.ndarray,
    scale: np.float32,
    normalize: bool,
    at_zero: np.float32,
    out: np.ndarray,
) -> None:
    kept = np.empty((len(changes), CHUNK), dtype=np.float32)
    signs = np.empty(CHUNK, dtype=np.float32)
    updates, divisors = np.empty_like(signs), np.empty_like(signs)
    for start in range(0, out.size, CHUNK):
        merged = out[start : start + CHUNK]
        size = merged.size
        _sum_kept(changes, keep, is_masked, start, weights, kept, signs[:size])
        _take_signs(signs, at_zero)
        updates[:], divisors[:] = 0, 0
        for model in range(len(changes)):
            row = kept[model, :size] if is_masked else changes[model, start : start + size]
            _add_where_agreed(row, weights[model], signs, updates, divisors)
        if normalize:
            _divide(updates, divisors)
        for i in range(size):
            updates[i] *= scale
        _add(base[start : start + CHUNK], updates, merged)


@compiled()
def _take_signs(totals: np.ndarray, at_zero: np.float32) -> None:
    """1 above 0, -1 below, `at_zero` at 0."""
    one, zero = np.float32(1), np.float32(0)
    for i in range(totals.size):
        above, below = np.float32(totals[i] > zero), np.float32(totals[i] < zero)
        totals[i] = above - below + at_zero * (one - above - below)


@compiled()
def _add_where_agreed(
    row: np.ndarray,
    weight: np.float32,
    signs: np.ndarray,
    updates: np.ndarray,
    divisors: np.ndarray,
) -> None:
    zero = np.float32(0)
    for i in range(row.size):
        weighted = row[i] * weight
        agrees = np.float32(weighted * signs[i] > zero)
        updates[i] += weighted * agrees
        divisors[i] += agrees * weight


@compiled(error_model="numpy")
def _divide(updates: np.ndarray, divisors: np.ndarray) -> None:
    one, small = np.float32(1), np.float32(1e-8)
    for i in range(updates.size):
        is_small = np.float32(abs(divisors[i]) < small)
        updates[i] /= divisors[i] + is_small * (one - divisors[i])
