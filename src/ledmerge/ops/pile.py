"""Numbers of many blocks, and which of them is the k-th from the top."""

from collections.abc import Hashable, Iterable
from typing import Any, Protocol

import numpy as np

from ledmerge.ops.compiled import compiled


class Ranked(Protocol):
    """Numbers put down block by block, in any order."""

    def blank(self) -> "Ranked":
        """An empty one of the same kind."""
        ...

    def put(self, block: Hashable, numbers: np.ndarray) -> None:
        """Add a block's numbers."""
        ...

    def absorb(self, other: Any) -> None:
        """Add all blocks of another one of the same kind."""
        ...

    def size(self) -> int:
        """How many numbers there are."""
        ...

    def kth(self, k: int) -> tuple[int, int, int]:
        """The k-th number from the top; how many equal to it are among the first k, and among all.

        Args:
            k: from 1 to `size()`.
        """
        ...

    def blocks(self) -> Iterable[Hashable]:
        """The blocks, in the order in which they came."""
        ...

    def count(self, block: Hashable, number: int) -> int:
        """How often a block has a number."""
        ...


class Pile:
    """Every number, in one array that grows.

    Small arrays of their own, kept while other blocks come and go, would break up the heap.
    """

    def __init__(self, dtype: type[np.number]):
        self._room = np.empty(0, dtype=dtype)
        self._size = 0
        self._spans: dict[Hashable, tuple[int, int]] = {}

    @property
    def numbers(self) -> np.ndarray:
        """Those of all blocks, in the order in which they came."""
        return self._room[: self._size]

    def of(self, block: Hashable) -> np.ndarray:
        """Those of one block."""
        start, stop = self._spans[block]
        return self._room[start:stop]

    def blank(self) -> "Pile":
        """See `Ranked.blank`."""
        return Pile(self._room.dtype.type)

    def put(self, block: Hashable, numbers: np.ndarray) -> None:
        """See `Ranked.put`."""
        self._spans[block] = self._append(numbers), self._size

    def absorb(self, other: "Pile") -> None:
        """See `Ranked.absorb`."""
        shift = self._append(other.numbers)
        self._spans |= {block: (a + shift, b + shift) for block, (a, b) in other._spans.items()}

    def size(self) -> int:
        """See `Ranked.size`."""
        return self._size

    def kth(self, k: int) -> tuple[int, int, int]:
        """See `Ranked.kth`."""
        return _kth(self.numbers, k)

    def blocks(self) -> Iterable[Hashable]:
        """See `Ranked.blocks`."""
        return self._spans.keys()

    def count(self, block: Hashable, number: int) -> int:
        """See `Ranked.count`."""
        return int(np.count_nonzero(self.of(block) == number))

    def _append(self, numbers: np.ndarray) -> int:
        start, stop = self._size, self._size + len(numbers)
        if stop > len(self._room):
            room = np.empty(max(stop, 2 * len(self._room)), dtype=self._room.dtype)
            room[:start] = self.numbers
            self._room = room
        self._room[start:stop] = numbers
        self._size = stop
        return start


class Tally:
    """Every different number that a block has, and how often it has it.

    Changes of bfloat16 weights have few different magnitudes, each many times.
    """

    def __init__(self) -> None:
        self._values, self._counts = Pile(np.uint32), Pile(np.uint32)

    def blank(self) -> "Tally":
        """See `Ranked.blank`."""
        return Tally()

    def put(self, block: Hashable, numbers: np.ndarray) -> None:
        """See `Ranked.put`."""
        values, counts = np.unique(numbers, return_counts=True)
        self._values.put(block, values)
        self._counts.put(block, counts)

    def absorb(self, other: "Tally") -> None:
        """See `Ranked.absorb`."""
        self._values.absorb(other._values)
        self._counts.absorb(other._counts)

    def size(self) -> int:
        """See `Ranked.size`."""
        return int(self._counts.numbers.sum(dtype=np.int64))

    def kth(self, k: int) -> tuple[int, int, int]:
        """See `Ranked.kth`."""
        values, places = np.unique(self._values.numbers, return_inverse=True)
        # Exact: counts stay far below 2^53.
        counts = np.bincount(places, self._counts.numbers)[::-1].astype(np.int64)
        from_top = np.cumsum(counts)
        place = int(np.searchsorted(from_top, k))
        before = int(from_top[place] - counts[place])
        return int(values[len(values) - 1 - place]), k - before, int(counts[place])

    def blocks(self) -> Iterable[Hashable]:
        """See `Ranked.blocks`."""
        return self._values.blocks()

    def count(self, block: Hashable, number: int) -> int:
        """See `Ranked.count`."""
        return int(self._counts.of(block)[self._values.of(block) == number].sum())


@compiled()
def _kth(numbers: np.ndarray, k: int) -> tuple[int, int, int]:
    """See `Ranked.kth`. Digit by digit: equal numbers slow a partition."""
    counts, known, prefix = np.empty(256, dtype=np.int64), np.uint32(0), np.uint32(0)
    for digit in range(numbers.itemsize - 1, -1, -1):
        shift = np.uint32(8 * digit)
        counts[:] = 0
        for i in range(numbers.size):
            number = np.uint32(numbers[i])
            counts[(number >> shift) & np.uint32(255)] += (number & known) == prefix
        value = 255
        while counts[value] < k:
            k -= counts[value]
            value -= 1
        prefix |= np.uint32(value) << shift
        known |= np.uint32(255) << shift
    return int(prefix), int(k), int(counts[value])
