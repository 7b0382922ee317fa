"""The grid every tensor is cut by, the same for digests, sums and entry-wise methods."""

from collections.abc import Iterator

BLOCK = 65_536
"""Entries in a block. Small enough that a chain of float32 operations stays in the second-level
cache (11-15 ns an entry against 43 ns on whole tensors), and large enough that the interpreter's
share of the time is small."""


def blocks(numel: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of every block of a flat tensor of `numel` entries, in order."""
    for start in range(0, numel, BLOCK):
        yield start, min(start + BLOCK, numel)


def num_blocks(numel: int) -> int:
    """How many blocks `blocks` yields."""
    return -(-numel // BLOCK)
