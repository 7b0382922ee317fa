"""The grid of blocks."""

import pytest

from ledmerge.ops.blocks import BLOCK, blocks


@pytest.mark.parametrize("numel", [0, 1, 99, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_blocks_lie_end_to_end_and_cover_every_entry_once(numel):
    cuts = list(blocks(numel))
    assert len(cuts) == -(-numel // BLOCK)
    assert [start for start, _ in cuts] == list(range(0, numel, BLOCK))
    assert [stop for _, stop in cuts] == [start for start, _ in cuts[1:]] + [numel] * bool(numel)
