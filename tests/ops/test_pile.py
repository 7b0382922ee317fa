"""Numbers put down block by block, against one sorted array of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.ops.pile import Pile, Tally

numbers = st.integers(0, 9) | st.integers(2**20 - 9, 2**20 - 1)
blocks = st.lists(st.lists(numbers, max_size=20), min_size=1, max_size=5)


@pytest.mark.parametrize("make", [lambda: Pile(np.uint32), lambda: Tally()])
@given(blocks=blocks, halves=st.integers(0, 5), data=st.data())
def test_the_kth_from_the_top_and_what_equals_it(make, blocks, halves, data):
    found, other = make(), make().blank()
    for place, block in enumerate(blocks):
        (found if place < halves else other).put(place, np.array(block, dtype=np.uint32))
    found.absorb(other)
    ranked = sorted((number for block in blocks for number in block), reverse=True)
    assert found.size() == len(ranked)
    assert sorted(found.blocks()) == list(range(len(blocks)))
    if not ranked:
        return
    k = data.draw(st.integers(1, len(ranked)))
    number = ranked[k - 1]
    assert found.kth(k) == (number, ranked[:k].count(number), ranked.count(number))
    for place, block in enumerate(blocks):
        assert found.count(place, number) == block.count(number)


@pytest.mark.parametrize("empty", [Pile(np.uint16), Tally()])
def test_the_largest_number_there_may_be(empty):
    found = empty.blank()
    found.put("block", np.array([65_535, 0, 65_535], dtype=np.uint16))
    assert found.kth(2) == (65_535, 2, 2)
    assert found.kth(3) == (0, 1, 1)
