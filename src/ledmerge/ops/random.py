"""Random numbers that depend on what they are for, never on when they are drawn.

A number is keyed by (seed, tensor name, model) and its entry's place in the tensor, so results do
not change with the order of work, threads, blocks, shards or device.
"""

import hashlib
import struct

import numpy as np
import torch
from torch import Tensor

from ledmerge.ops import philox


def uniform(seed: int, name: str, model: int, start: int, stop: int) -> np.ndarray:
    """Float32 numbers in [0, 1), multiples of 2^-24, for flat entries start..stop of a tensor."""
    drawn = np.empty(stop - start, dtype=np.float32)
    philox.fill(_stream(seed, name, model), start, drawn)
    return drawn


def draw_uniform(like: Tensor, *, seed: int = 0, name: str = "", start: int = 0) -> Tensor:
    """Uniform numbers for a stack (model, *shape), the flat entries of a tensor from `start` on.

    Drawn on the CPU wherever they go: one loop without the interpreter's lock, for hundreds of
    operations a block.
    """
    rows = torch.empty(like.shape)
    for model, row in enumerate(rows.view(len(like), like[0].numel()).numpy()):
        philox.fill(_stream(seed, name, model), start, row)
    return rows.to(like.device)


def _stream(seed: int, name: str, model: int) -> philox.Stream:
    digest = hashlib.blake2b(f"{seed}\0{name}\0{model}".encode(), digest_size=16).digest()
    return philox.Stream(*struct.unpack("<4I", digest))
