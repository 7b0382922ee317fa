"""The leading singular directions of a matrix that is only seen some rows at a time.

Source: Halko, Martinsson and Tropp 2011, https://arxiv.org/abs/0909.4061, algorithms 4.4 and 5.1.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ledmerge.ops.factors import truncated
from ledmerge.ops.random import uniform
from ledmerge.types import Factors

EXTRA = 10
"""Directions sought beyond those asked for."""
ROUNDS = 2
"""Times the directions are sent through the matrix and back, which sharpens slow spectra."""

Rows = Callable[[], Iterator[tuple[int, Tensor]]]
"""Goes over the matrix: (first row, rows), the same pieces each time."""


def leading(rows: Rows, shape: tuple[int, int], rank: int, *, seed: int, name: str) -> Factors:
    """Factors of nearly the nearest matrix of a rank; exact where the matrix has no more.

    Goes over the matrix 2 `ROUNDS` + 2 times. Memory is that of a piece and of 2 (rank + `EXTRA`)
    rows and columns in float64.

    Args:
        seed: with `name`, decides the random directions at the start.
    """
    size = min(rank + EXTRA, *shape)
    start = uniform(seed, name, 0, 0, shape[1] * size).reshape(shape[1], size) - 0.5
    right = torch.from_numpy(start).double()
    for _ in range(ROUNDS):
        right = _orthonormal(_back(rows, _orthonormal(_through(rows, right, shape)), shape))
    left = _orthonormal(_through(rows, right, shape))
    return truncated((_back(rows, left, shape).T.float(), left.float()), rank)


def distance(rows: Rows, factors: Factors) -> float:
    """Frobenius norm of the matrix less B A."""
    a, b = factors
    total = sum(
        float((piece - b[first : first + len(piece)] @ a).double().square().sum())
        for first, piece in rows()
    )
    return total**0.5


def _through(rows: Rows, right: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix times `right`."""
    out = torch.empty(shape[0], right.shape[1], dtype=torch.float64)
    for first, piece in rows():
        out[first : first + len(piece)] = piece.double() @ right
    return out


def _back(rows: Rows, left: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix, transposed, times `left`."""
    out = torch.zeros(shape[1], left.shape[1], dtype=torch.float64)
    for first, piece in rows():
        out += piece.double().T @ left[first : first + len(piece)]
    return out


def _orthonormal(matrix: Tensor) -> Tensor:
    return torch.linalg.qr(matrix)[0]
