"""Counting entries on which changes disagree."""

import torch
from hypothesis import given

from ledmerge.ops.conflict import count_conflicts
from ops.elsewhere import elsewhere
from ops.small import tables


@given(columns=tables((1, 20), (1, 4)))
def test_an_entry_conflicts_where_one_change_rises_and_another_falls(columns):
    deltas = torch.tensor(columns).float().T.contiguous()
    expected = sum(min(column) < 0 < max(column) for column in columns)
    assert count_conflicts(deltas) == count_conflicts(elsewhere(deltas)) == expected


def test_negative_zero_is_no_direction():
    assert count_conflicts(torch.tensor([[-0.0, 0.0], [1.0, -1.0]])) == 0
