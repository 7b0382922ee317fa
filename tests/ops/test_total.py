"""Sums that are right to the last digits and the same however they are taken."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.ops.blocks import BLOCK, blocks
from ledmerge.ops.survey import WHOLE
from ledmerge.ops.total import block_total, grand_total
from ops.elsewhere import elsewhere


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("numel", [1, 2, 3, 15, 16, 17, 99, BLOCK, BLOCK + 1])
def test_sums_are_right_to_the_last_digits(numel):
    rows = noise(2, numel)
    for total, row in zip(WHOLE.total(rows).tolist(), rows.tolist(), strict=True):
        assert total == pytest.approx(math.fsum(row), rel=0, abs=1e-15 * math.fsum(map(abs, row)))


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=50))
def test_sums_of_integers_are_exact(values):
    row = torch.tensor([values]).float()
    assert block_total(row) == block_total(elsewhere(row)) == [sum(values)]


def test_small_terms_are_not_lost_beside_large_ones():
    row = torch.tensor([[1e30] + [1.0] * 100 + [-1e30]])
    assert (
        grand_total([block_total(row[:, :1]), block_total(row[:, 1:-1]), block_total(row[:, -1:])])
        == 100
    )


def test_the_order_of_blocks_does_not_matter():
    rows = noise(2, 5 * BLOCK + 7) * torch.logspace(-9, 9, 5 * BLOCK + 7)
    parts = [block_total(rows[:, start:stop].contiguous()) for start, stop in blocks(rows.shape[1])]
    for seed in range(5):
        random.Random(seed).shuffle(parts)
        assert torch.equal(grand_total(parts), WHOLE.total(rows))


def test_the_shape_does_not_matter():
    rows = noise(3, 300, 401)
    assert torch.equal(WHOLE.total(rows), WHOLE.total(rows.flatten(1)))


def test_rows_with_gaps_between_them_are_summed_as_if_without():
    rows = noise(2, 1000)
    assert block_total(rows[:, 100:300]) == block_total(rows[:, 100:300].contiguous())


def test_a_total_of_nothing_is_zero():
    assert WHOLE.total(torch.zeros(2, 0)).tolist() == [0, 0]


@pytest.mark.parametrize("size", [1, 15, 16, 17, 1_000])
def test_magnitudes_and_squares_are_sums_of_these_values(size: int):
    rows = torch.randn(2, size, generator=torch.Generator().manual_seed(size))
    assert block_total(rows, "magnitudes") == block_total(rows.abs())
    assert block_total(rows, "squares") == block_total(rows.square())
    for of in ("magnitudes", "squares"):
        assert block_total(elsewhere(rows), of) == pytest.approx(block_total(rows, of))
