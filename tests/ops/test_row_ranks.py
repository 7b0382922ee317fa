"""Ranks within rows, against a stable sort."""

import numpy as np
import pytest
import torch
from hypothesis import given

from ledmerge.ops.row_ranks import row_ranks
from ops.elsewhere import elsewhere
from ops.small import tables


def sorted_ranks(rows: np.ndarray) -> list[list[int]]:
    found = np.empty(rows.shape, dtype=int)
    for row, magnitudes in enumerate(np.abs(rows.astype(np.float64))):
        found[row, np.argsort(magnitudes, kind="stable")] = range(rows.shape[1])
    return found.tolist()


@pytest.mark.parametrize("path", [lambda rows: rows, elsewhere], ids=["numba", "torch"])
@given(rows=tables((1, 4), (1, 30)))
def test_equals_a_stable_sort(path, rows):
    values = torch.tensor(rows).float()
    assert row_ranks(path(values)).tolist() == sorted_ranks(values.numpy())


@pytest.mark.parametrize("shape", [(3, 5_000), (1, 0), (0, 4), (70, 1)])
def test_values_of_every_size_stand_in_their_order(shape):
    bits = torch.randint(0, 0x7F800000, shape, generator=torch.Generator().manual_seed(1))
    values = bits.to(torch.int32).view(torch.float32)
    values[:, ::3] *= -1
    assert row_ranks(values).tolist() == sorted_ranks(values.numpy())


def test_rows_without_gaps_are_not_asked_for():
    values = torch.randn(4, 60, generator=torch.Generator().manual_seed(0))
    assert torch.equal(row_ranks(values[:, ::2]), row_ranks(values[:, ::2].contiguous()))
