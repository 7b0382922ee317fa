"""Ranks read off a histogram, against counting."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.rank import Ranking
from ledmerge.ops.survey import WHOLE


def exact(row: torch.Tensor) -> np.ndarray:
    """The share of entries of smaller magnitude."""
    magnitudes = row.abs().numpy()
    return np.searchsorted(np.sort(magnitudes), magnitudes) / row.numel()


def test_ranks_lie_within_their_bin_of_the_exact_ones():
    row = torch.randn(50_000, generator=torch.Generator().manual_seed(0)) ** 3
    ranks = WHOLE.rank(row[None])[0].double().numpy()
    # The bin of a float32 is its upper 16 bits, less the sign.
    floor = (row.abs().numpy().view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    ceiling = (floor.view(np.uint32) + np.uint32(0x10000)).view(np.float32)
    ordered = np.sort(row.abs().numpy())
    low, high = (np.searchsorted(ordered, edge) / row.numel() for edge in (floor, ceiling))
    assert (ranks >= low - 1e-7).all()
    assert (ranks <= high + 1e-7).all()
    assert np.abs(ranks - exact(row)).max() <= (high - low).max() < 0.01


def test_a_larger_magnitude_never_ranks_lower():
    row = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    ranks = WHOLE.rank(row[None])[0]
    assert (ranks[row.abs().argsort()].diff() >= 0).all()


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=40))
def test_small_integers_rank_exactly(values):
    row = torch.tensor(values).float()
    np.testing.assert_allclose(WHOLE.rank(row[None])[0], exact(row), atol=1e-7)


def test_each_row_is_ranked_by_itself():
    rows = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 200.0, 100.0]])
    assert WHOLE.rank(rows).tolist() == [[0, 0.25, 0.5, 0.75], [0.25, 0, 0.75, 0.5]]


def test_the_order_of_blocks_does_not_matter():
    rows = torch.randn(2, 1_000, generator=torch.Generator().manual_seed(0))
    forth, back = Ranking(), Ranking()
    for start in range(0, 1_000, 100):
        forth.count(rows[:, start : start + 100])
        back.count(rows[:, 900 - start : 1_000 - start])
    forth.close()
    back.close()
    assert torch.equal(forth.ranks(rows), back.ranks(rows))


def test_the_shape_is_kept():
    rows = torch.randn(2, 457, 300, generator=torch.Generator().manual_seed(0))
    assert rows[0].numel() > BLOCK
    assert torch.equal(WHOLE.rank(rows).flatten(1), WHOLE.rank(rows.flatten(1)))
