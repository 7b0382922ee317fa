"""What a method sees of a tensor, piece by piece."""

import math

import pytest
import torch

from ledmerge.run import pieces as module
from ledmerge.run.pieces import longest, pieces, view


@pytest.fixture(autouse=True)
def short_rows(monkeypatch):
    monkeypatch.setattr(module, "LONGEST_ROW", 40)


SHAPES = [
    (),
    (0,),
    (7,),
    (35,),
    (41,),
    (9, 7),
    (4, 10),
    (3, 25),
    (2, 41),
    (2, 3, 4),
    (3, 0),
    (0, 3),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("grain", ["entry", "row", "tensor"])
@pytest.mark.parametrize("size", [10, 30])
def test_every_entry_is_in_one_piece_and_a_row_is_seen_whole(shape, grain, size):
    numel = math.prod(shape)
    found, flat = [], torch.arange(numel)
    for start, stop in pieces(shape, grain, size):
        seen = view(shape, grain, start, stop)
        whole = flat[seen.start : seen.stop]
        assert whole[seen.inside].tolist() == list(range(start, stop))
        assert math.prod(seen.shape) == len(whole) <= longest(shape, grain, size)
        found += range(start, stop)
        if grain == "row" and len(seen.shape) > 1:
            assert seen.shape[-1] == shape[-1]
            assert seen.start % shape[-1] == 0
    assert found == list(range(numel))


def test_leading_axes_are_joined_also_where_rows_are_too_long_for_blocks():
    assert view((2, 3, 4), "row", 0, 10).shape == (3, 4)
    assert view((2, 3, 41), "row", 0, 246).shape == (6, 41)
    assert view((2, 3, 41), "tensor", 0, 246).shape == (2, 3, 41)


def test_rows_far_longer_than_a_block_are_not_read_again_for_each():
    assert pieces((2, 41), "row") == [(0, 82)]
    assert view((2, 41), "row", 0, 82).shape == (2, 41)
    assert len(pieces((2, 40), "row", 10)) == 8


def test_blocks_that_end_with_rows_see_nothing_twice():
    for start, stop in pieces((6, 5), "row", 10):
        assert view((6, 5), "row", start, stop)[:2] == (start, stop)
