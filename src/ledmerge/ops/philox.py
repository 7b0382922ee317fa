"""Philox4x32-10: four 32-bit words out of a key and a counter, and nothing else.

Any number of a stream is had without those before it.

Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3,
https://doi.org/10.1145/2063384.2063405.
"""

from typing import NamedTuple

import numpy as np

from ledmerge.ops.compiled import compiled

_ROUNDS = 10
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
"""What the first and the third word are multiplied by."""
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
"""What the words of the key grow by after each round."""
_LOW = 0xFFFFFFFF
_UNIT = np.float32(2**-24)

_CHUNK = 512
"""Counters worked on together: their words stay in the first cache."""


class Stream(NamedTuple):
    """Whose numbers these are: four words of 32 bits.

    Attributes:
        key0, key1: the key.
        upper0, upper1: the upper half of every counter; the lower half counts the stream's words,
            four at a time.
    """

    key0: int
    key1: int
    upper0: int
    upper1: int


def fill(stream: Stream, start: int, out: np.ndarray) -> None:
    """Numbers `start` and on of a stream, as many as `out` (float32, flat) holds.

    They are the upper 24 bits of a word each, as multiples of 2^-24 in [0, 1).
    """
    key0, key1, upper0, upper1 = map(np.uint32, stream)
    _fill(key0, key1, upper0, upper1, start, out)


@compiled()
def _fill(
    key0: np.uint32,
    key1: np.uint32,
    upper0: np.uint32,
    upper1: np.uint32,
    start: int,
    out: np.ndarray,
) -> None:
    planes, drawn = np.empty((4, _CHUNK), np.float32), np.empty(4 * _CHUNK, np.float32)
    done = 0
    while done < out.size:
        counter, passed_over = divmod(start + done, 4)
        draw(key0, key1, upper0, upper1, np.uint64(counter), planes)
        size = min(drawn.size - passed_over, out.size - done)
        if size == drawn.size:
            _interleave(planes, out[done : done + size])
        else:
            _interleave(planes, drawn)
            out[done : done + size] = drawn[passed_over : passed_over + size]
        done += size


@compiled()
def draw(
    key0: np.uint32,
    key1: np.uint32,
    upper0: np.uint32,
    upper1: np.uint32,
    counter: np.uint64,
    planes: np.ndarray,
) -> None:
    """The numbers of `counter` and on, of the four words of each: (4, counter)."""
    low, half, cut = np.uint64(_LOW), np.uint64(32), np.uint64(8)
    # Words are kept in 64 bits and counters lie side by side: so the compiler works on several of
    # them at once, with one multiplication of 32 by 32 bits. In uint32 it takes 2.4 times as long.
    row0, row1, row2, row3 = planes[0], planes[1], planes[2], planes[3]
    for i in range(planes.shape[1]):
        place = counter + np.uint64(i)
        x0, x1, x2, x3 = place & low, place >> half, np.uint64(upper0), np.uint64(upper1)
        k0, k1 = np.uint64(key0), np.uint64(key1)
        for _ in range(_ROUNDS):
            first, third = np.uint64(_M0) * x0, np.uint64(_M1) * x2
            x0, x1 = (third >> half) ^ x1 ^ k0, third & low
            x2, x3 = (first >> half) ^ x3 ^ k1, first & low
            k0, k1 = (k0 + np.uint64(_W0)) & low, (k1 + np.uint64(_W1)) & low
        row0[i] = np.float32(np.int32(x0 >> cut)) * _UNIT
        row1[i] = np.float32(np.int32(x1 >> cut)) * _UNIT
        row2[i] = np.float32(np.int32(x2 >> cut)) * _UNIT
        row3[i] = np.float32(np.int32(x3 >> cut)) * _UNIT


@compiled()
def _interleave(planes: np.ndarray, out: np.ndarray) -> None:
    row0, row1, row2, row3 = planes[0], planes[1], planes[2], planes[3]
    for i in range(row0.size):
        out[4 * i], out[4 * i + 1] = row0[i], row1[i]
        out[4 * i + 2], out[4 * i + 3] = row2[i], row3[i]
