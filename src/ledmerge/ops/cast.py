"""Stored weights to float32 and back, with what is to be known of a block on the way."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ledmerge.ops.compiled import compiled

_PIECE = 4096
"""Entries of all rows gone over before the next ones, so that the first row stays near."""


def widen(stored: Sequence[Tensor], out: Tensor, changes: range = range(0)) -> int | None:
    """Rows of flat weights as float32 in `out` (row, entry); the first row that is not finite.

    Args:
        changes: the rows of which the first row is subtracted.

    All are of one length and without gaps, those stored on the CPU. A row that lies in `out`
    already stays. What is to be on another device goes there as it is stored, where it takes less
    room, and has arrived on return.
    """
    if out.device.type != "cpu":
        for row, into in zip(stored, out, strict=True):
            into.copy_(row.to(out.device, non_blocking=True))
        finite = out.isfinite().all(1).tolist()
        out[changes.start : changes.stop] -= out[0]
        return None if all(finite) else finite.index(False)
    if all(row.dtype == torch.bfloat16 for row in stored):
        bits = tuple(row.view(torch.int16).numpy().view(np.uint16) for row in stored)
        into = out.numpy()
        finite = _widen(bits, into, into.view(np.uint32), changes.start, changes.stop)
        return None if finite.all() else int(finite.argmin())
    bad = []
    for place, row in enumerate(stored):
        into = out[place]
        if row.data_ptr() != into.data_ptr():
            into.copy_(row)
        if not is_finite(into):
            bad.append(place)
        if place in changes:
            into.sub_(out[0])
    return bad[0] if bad else None


def narrow(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """Flat float32 values in another dtype, rounded to nearest even, and whether all are finite."""
    if dtype == torch.bfloat16 and values.device.type == "cpu" and values.is_contiguous():
        stored = torch.empty(values.shape, dtype=dtype)
        bits = stored.view(torch.int16).numpy().view(np.uint16)
        if _narrow(values.numpy().view(np.uint32), bits):
            return stored, True
    stored = values.to(dtype)
    finite = is_finite(stored.float())
    if stored.device.type == "cuda":
        return torch.empty(stored.shape, dtype=dtype, pin_memory=True).copy_(stored), finite
    return stored.cpu(), finite


def num_different(ours: Tensor, theirs: Tensor) -> int:
    """Entries of two flat tensors of one dtype whose bits differ."""
    words = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[ours.element_size()]
    return int(np.count_nonzero(ours.view(words).numpy() != theirs.view(words).numpy()))


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. A sum of squares shows most at a fifth of the cost."""
    flat = values.flatten()
    return math.isfinite(float(flat @ flat)) or bool(torch.isfinite(flat).all())


@compiled()
def _widen(
    bits: tuple[np.ndarray, ...], out: np.ndarray, words: np.ndarray, first: int, stop: int
) -> np.ndarray:
    """Whether each row is finite; `words` are the bits of `out`."""
    finite = np.ones(len(bits), dtype=np.bool_)
    for start in range(0, out.shape[1], _PIECE):
        end = min(start + _PIECE, out.shape[1])
        for row in range(len(bits)):
            finite[row] &= _widen_piece(bits[row][start:end], words[row, start:end])
            if first <= row < stop:
                _subtract(out[row, start:end], out[0, start:end])
    return finite


@compiled()
def _widen_piece(bits: np.ndarray, out: np.ndarray) -> bool:
    not_finite = np.uint16(0)
    for i in range(bits.size):
        out[i] = np.uint32(bits[i]) << np.uint32(16)
        not_finite |= np.uint16((bits[i] & np.uint16(0x7F80)) == np.uint16(0x7F80))
    return not_finite == 0


@compiled()
def _subtract(values: np.ndarray, minus: np.ndarray) -> None:
    for i in range(values.size):
        values[i] -= minus[i]


@compiled()
def _narrow(words: np.ndarray, bits: np.ndarray) -> bool:
    """Adds half of what is cut off, less one where that would make an even number odd."""
    exponent, not_finite = np.uint32(0x7F800000), np.uint32(0)
    for i in range(words.size):
        word = words[i]
        odd = (word >> np.uint32(16)) & np.uint32(1)
        rounded = np.uint32(np.uint32(word + np.uint32(0x7FFF)) + odd)
        bits[i] = np.uint16(rounded >> np.uint32(16))
        not_finite |= np.uint32((word & exponent) == exponent)
        not_finite |= np.uint32((rounded & exponent) == exponent)
    return not_finite == 0
