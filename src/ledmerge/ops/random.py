"""Random numbers that depend on what they are for, never on when they are drawn.

A number is keyed by (seed, tensor name, model) and its entry's place in the tensor, so results do
not change with the order of work, threads, blocks, shards or device.
"""

import hashlib

import numpy as np
import torch
from torch import Tensor

from ledmerge.ops.cast import as_fractions

_PER_COUNTER = 8  # Philox4x64 gives 256 bits a counter: eight 32-bit words


def uniform(seed: int, name: str, model: int, start: int, stop: int) -> np.ndarray:
    """Float32 numbers in [0, 1), multiples of 2^-24, for flat entries start..stop of a tensor.

    Philox's raw stream is fixed by NumPy's compatibility promise, so the bytes are, too.
    """
    drawn = np.empty(stop - start, dtype=np.float32)
    _draw_into(drawn, seed, name, model, start)
    return drawn


def draw_uniform(like: Tensor, *, seed: int = 0, name: str = "", start: int = 0) -> Tensor:
    """Uniform numbers for a stack (model, *shape), the flat entries of a tensor from `start` on."""
    rows = np.empty((len(like), like[0].numel()), dtype=np.float32)
    for model, row in enumerate(rows):
        _draw_into(row, seed, name, model, start)
    return torch.from_numpy(rows).view(like.shape).to(like.device)


def _draw_into(drawn: np.ndarray, seed: int, name: str, model: int, start: int) -> None:
    key = hashlib.blake2b(f"{seed}\0{name}\0{model}".encode(), digest_size=16).digest()
    first = start // _PER_COUNTER
    bits = np.random.Philox(key=int.from_bytes(key, "little"), counter=first)
    passed_over = start - first * _PER_COUNTER
    words = bits.random_raw(-(-(passed_over + drawn.size) // 2)).view(np.uint32)
    as_fractions(words[passed_over:], drawn)
