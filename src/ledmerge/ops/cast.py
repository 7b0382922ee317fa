"""Stored weights to float32 and back, with what is to be known of a block on the way."""

import math

import numpy as np
import torch
from numba import njit
from torch import Tensor


def widen(stored: Tensor, out: Tensor, minus: Tensor | None = None) -> bool:
    """`stored` as float32 in `out`, less `minus` if given; says whether all of it is finite.

    All are flat, of one length, and on the CPU.
    """
    if stored.dtype == torch.bfloat16:
        bits = stored.view(torch.int16).numpy().view(np.uint16)
        if minus is None:
            return _widen(bits, out.numpy().view(np.uint32))
        return _widen_less(bits, minus.numpy(), out.numpy(), out.numpy().view(np.uint32))
    out.copy_(stored)
    finite = is_finite(out)
    if minus is not None:
        out.sub_(minus)
    return finite


def narrow(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """Flat float32 values in another dtype, rounded to nearest even, and whether all are finite."""
    if dtype == torch.bfloat16 and values.device.type == "cpu" and values.is_contiguous():
        stored = torch.empty(values.shape, dtype=dtype)
        bits = stored.view(torch.int16).numpy().view(np.uint16)
        if _narrow(values.numpy().view(np.uint32), bits):
            return stored, True
    stored = values.cpu().to(dtype)
    return stored, is_finite(stored.float())


def num_different(ours: Tensor, theirs: Tensor) -> int:
    """Entries of two flat tensors of one dtype whose bits differ."""
    words = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[ours.element_size()]
    return int(np.count_nonzero(ours.view(words).numpy() != theirs.view(words).numpy()))


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. A sum of squares shows most at a fifth of the cost."""
    flat = values.flatten()
    return math.isfinite(float(flat @ flat)) or bool(torch.isfinite(flat).all())


@njit(nogil=True, cache=True)
def _widen(bits: np.ndarray, out: np.ndarray) -> bool:
    not_finite = np.uint16(0)
    for i in range(bits.size):
        out[i] = np.uint32(bits[i]) << np.uint32(16)
        not_finite |= np.uint16((bits[i] & np.uint16(0x7F80)) == np.uint16(0x7F80))
    return not_finite == 0


@njit(nogil=True, cache=True)
def _widen_less(bits: np.ndarray, minus: np.ndarray, out: np.ndarray, words: np.ndarray) -> bool:
    finite = _widen(bits, words)
    for i in range(out.size):
        out[i] -= minus[i]
    return finite


@njit(nogil=True, cache=True)
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
