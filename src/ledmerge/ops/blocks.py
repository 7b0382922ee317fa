"""The grid every tensor is cut by, the same for digests, sums and entry-wise methods."""

from collections.abc import Iterator

BLOCK = 131_072
"""Entries in a block. Small enough to stay near the core, and large enough that the interpreter's
share is small. Digests are taken block by block, so records of another size are others."""


def blocks(numel: int, size: int | None = None) -> Iterator[tuple[int, int]]:
    """(start, stop) of every block of a flat tensor of `numel` entries, in order.

    Args:
        size: entries of a block, if not `BLOCK`.
    """
    size = size or BLOCK
    for start in range(0, numel, size):
        yield start, min(start + size, numel)
