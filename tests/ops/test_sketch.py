"""Leading directions of a matrix seen in pieces, against its whole SVD."""

import pytest
import torch

from ledmerge.ops.sketch import distance, leading

SHAPES = [(40, 30), (30, 40), (9, 200), (200, 9), (5, 1), (1, 5)]


def in_pieces(matrix: torch.Tensor, size: int):
    def rows():
        for first in range(0, len(matrix), size):
            yield first, matrix[first : first + size]

    return rows


def best(matrix: torch.Tensor, rank: int) -> float:
    return float(torch.linalg.svdvals(matrix.double())[rank:].square().sum().sqrt())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_matrix_of_low_rank_is_found_whole(shape: tuple[int, int]):
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape[0], 3, generator=draw) @ torch.randn(3, shape[1], generator=draw)
    a, b = leading(in_pieces(matrix, 7), shape, 3, seed=0, name="w")
    assert (a.shape[1], b.shape[0]) == (shape[1], shape[0])
    assert a.shape[0] == b.shape[1] == min(3, *shape)
    assert distance(in_pieces(matrix, 4), (a, b)) < 1e-5 * float(matrix.norm())
    torch.testing.assert_close(b @ a, matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 5, 30])
def test_of_a_flat_spectrum_little_more_is_lost_than_must_be(rank: int):
    matrix = torch.randn(120, 90, generator=torch.Generator().manual_seed(1))
    factors = leading(in_pieces(matrix, 50), (120, 90), rank, seed=0, name="w")
    off = distance(in_pieces(matrix, 120), factors)
    assert off == pytest.approx(float((matrix - factors[1] @ factors[0]).norm()), rel=1e-5)
    assert best(matrix, rank) <= off * (1 + 1e-6)
    assert off < 1.02 * best(matrix, rank)


def test_the_start_is_keyed_by_seed_and_name():
    matrix = torch.randn(120, 90, generator=torch.Generator().manual_seed(1))
    found = [
        leading(in_pieces(matrix, 50), (120, 90), 2, seed=seed, name=name)[0]
        for seed, name in ((0, "w"), (0, "w"), (1, "w"), (0, "v"))
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3])
