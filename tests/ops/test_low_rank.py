"""The product of thin matrices, added to any stretch of a flat matrix."""

import numpy as np
import pytest

from ledmerge.ops.low_rank import add_product_


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("columns", [1, 2, 7])
def test_every_stretch_has_the_bits_of_the_whole(rank: int, columns: int):
    draw = np.random.default_rng(0)
    left, right = (draw.standard_normal(s).astype("f") for s in ((6, rank), (rank, columns)))
    start = draw.standard_normal(6 * columns).astype("f")
    whole = start.copy()
    add_product_(whole, left, right, 0.3, 0)
    exact = start + 0.3 * (left.astype(float) @ right).reshape(-1)
    np.testing.assert_allclose(whole, exact, rtol=1e-5, atol=1e-6)
    for first in range(6 * columns):
        for last in range(first + 1, 6 * columns + 1):
            part = start[first:last].copy()
            rows = left[first // columns : (last - 1) // columns + 1]
            add_product_(part, rows, right, 0.3, first % columns)
            assert part.tobytes() == whole[first:last].tobytes()


def test_each_entry_is_a_chain_of_single_roundings():
    left = np.array([[1e8, 1, -1e8]], "f")
    right = np.array([[1], [1], [1]], "f")
    out = np.array([0], "f")
    add_product_(out, left, right, 1, 0)
    assert out[0] == 0  # 1e8 + 1 is 1e8 in float32
