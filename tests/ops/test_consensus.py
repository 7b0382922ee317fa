"""Agreement on a direction, against counting by hand."""

import pytest
import torch
from hypothesis import given

from ledmerge.ops.consensus import agreeing, merge_changes
from ops.small import tables


@pytest.mark.parametrize("convention", ["mergekit", "paper"])
@given(columns=tables((1, 20), 3))
def test_a_change_agrees_that_has_the_sign_of_the_sum(convention, columns):
    mask = agreeing(torch.tensor(columns).float().T, convention)
    for entry, column in enumerate(columns):
        for model, change in enumerate(column):
            agrees = change * sum(column) > 0
            if sum(column) == 0 and convention == "mergekit":
                agrees = change > 0
            assert mask[model, entry] == agrees


def test_agreeing_leaves_the_changes_as_they_are():
    changes = torch.tensor([[1.0, -2.0], [-3.0, 0.0]])
    agreeing(changes, "paper")
    assert changes.tolist() == [[1, -2], [-3, 0]]


@pytest.mark.parametrize("consensus", [None, "mergekit", "paper"])
def test_a_weight_sum_of_zero_divides_by_one(consensus):
    changes = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    merged = merge_changes(
        torch.zeros(2), changes, weight=[1.0, -1.0], normalize=True, scale=1.0, consensus=consensus
    )
    # Weighted: 1, -3 and 2, 4. With consensus -3 is left, and its weight is -1; 2 + 4 has weight 0.
    assert merged.tolist() == ([-2, 6] if consensus is None else [3, 6])


def test_the_scale_comes_last():
    changes = torch.tensor([[2.0], [4.0]])
    merged = merge_changes(torch.ones(1), changes, weight=1.0, normalize=True, scale=0.5)
    assert merged.tolist() == [1 + 0.5 * 3]
