"""Numbers of many blocks in one array that grows."""

from collections.abc import Hashable, Iterable

import numpy as np


class Pile:
    """The numbers put down for each block, one after the other.

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

    def blank(self) -> "Pile":
        """An empty one of the same kind."""
        return Pile(self._room.dtype.type)

    def of(self, block: Hashable) -> np.ndarray:
        """Those of one block."""
        start, stop = self._spans[block]
        return self._room[start:stop]

    def blocks(self) -> Iterable[Hashable]:
        """The blocks, in the order in which they came."""
        return self._spans.keys()

    def put(self, block: Hashable, numbers: np.ndarray) -> None:
        """Add a block's numbers."""
        self._spans[block] = self._append(numbers), self._size

    def absorb(self, other: "Pile") -> None:
        """Add all blocks of another pile."""
        shift = self._append(other.numbers)
        self._spans |= {block: (a + shift, b + shift) for block, (a, b) in other._spans.items()}

    def _append(self, numbers: np.ndarray) -> int:
        start, stop = self._size, self._size + len(numbers)
        if stop > len(self._room):
            room = np.empty(max(stop, 2 * len(self._room)), dtype=self._room.dtype)
            room[:start] = self.numbers
            self._room = room
        self._room[start:stop] = numbers
        self._size = stop
        return start
