"""Singular values and vectors of matrices large enough for the short way of a low rank."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ledmerge.ops.svd import LARGE, svd

LOW_RANKS = [((300, 300), 5), ((256, 700), 9), ((1200, 260), 3), ((520, 400), 1)]


def product(shape: tuple[int, int], rank: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(rank)
    left = torch.randn(shape[0], rank, generator=draw)
    return left @ torch.randn(rank, shape[1], generator=draw)


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The shorter sides of all matrices that were given to the library."""
    found: list[int] = []
    whole = torch.linalg.svd

    def watched(matrix: torch.Tensor, **options: bool) -> tuple[torch.Tensor, ...]:
        found.append(min(matrix.shape))
        return whole(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svd", watched)
    return found


@pytest.mark.parametrize(("shape", "rank"), LOW_RANKS, ids=str)
def test_a_low_rank_takes_a_small_decomposition(shape, rank, sides):
    matrix = product(shape, rank)
    u, s, vh = svd(matrix)
    assert u.shape == (shape[0], rank)
    assert max(sides) <= min(shape) // 8
    exact_u, exact_s, exact_vh = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    torch.testing.assert_close(s.double(), torch.from_numpy(exact_s[:rank]), rtol=1e-5, atol=0)
    nearest = torch.from_numpy(exact_u[:, :rank] @ exact_vh[:rank])
    torch.testing.assert_close((u @ vh).double(), nearest, rtol=1e-4, atol=1e-5)


def test_directions_beyond_the_short_way_are_all_found(sides):
    matrix = product((256, 256), 32)
    u, s, vh = svd(matrix)
    assert len(s) == 32
    assert max(sides) == LARGE
    torch.testing.assert_close(u * s @ vh, matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1e-1, 1e-3])
def test_a_small_rest_of_full_rank_is_not_taken_for_rounding(size, sides):
    rest = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    u, s, _ = svd(product((256, 256), 4) + size * rest)
    assert max(sides) == LARGE
    assert len(s) > 150
    assert (u.T @ u - torch.eye(len(s))).abs().max() < 1e-5


def test_a_rest_that_no_random_column_shows_is_measured(monkeypatch):
    """Random columns that miss a direction: chance may cost time, not directions."""
    matrix = torch.zeros(256, 256)
    matrix[0, 0] = matrix[1, 1] = 1.0

    def blind(seed: int, name: str, model: int, start: int, stop: int) -> np.ndarray:
        drawn = np.random.default_rng(0).random((256, stop // 256), np.float32)
        drawn[1] = 0.5
        return drawn

    monkeypatch.setattr("ledmerge.ops.svd.uniform", blind)
    assert svd(matrix)[1].tolist() == [1.0, 1.0]


def test_a_large_matrix_of_zeros_has_no_directions():
    assert [part.numel() for part in svd(torch.zeros(300, 260))] == [0, 0, 0]


def test_a_tall_matrix_whose_rows_moved_together_keeps_its_other_directions():
    """As the rows of unused tokens do in an output embedding."""
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(100_000, 32, generator=draw)
    _, s, _ = svd(matrix + 40.0)
    assert len(s) == 32
    assert 0.001 < s[1] / s[0] < 100_000 * torch.finfo(torch.float32).eps
