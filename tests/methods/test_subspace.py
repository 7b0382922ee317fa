"""Subspace methods against their textbook form: dense decompositions in float64."""

import numpy as np
import pytest
import torch

from ledmerge.methods.iso_c import iso_c
from ledmerge.methods.iso_cts import iso_cts
from ledmerge.methods.knots import knots
from ledmerge.methods.tsvm import tsvm
from ledmerge.methods.wudi import wudi
from ledmerge.ops.svd import svd
from methods.harness import draw

SHAPES = [(8, 8), (6, 20), (40, 6), (5, 2)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
METHODS = [tsvm, iso_c, iso_cts, knots, wudi]
every_method = pytest.mark.parametrize("method", METHODS)


def task_vectors(shape: tuple[int, int], count: int = 3) -> torch.Tensor:
    return draw(f"deltas {shape}", count, *shape)


def agree(merged: torch.Tensor, base: torch.Tensor, update: np.ndarray) -> None:
    torch.testing.assert_close(
        (merged - base).double(), torch.from_numpy(update), rtol=1e-4, atol=1e-4
    )


def orthogonal(matrix: np.ndarray) -> np.ndarray:
    u, _, vh = np.linalg.svd(matrix, full_matrices=False)
    return u @ vh


@shapes
def test_tsvm(shape):
    base, deltas = draw("base", *shape), task_vectors(shape)
    most = max(1, min(shape) // 3)
    parts = [np.linalg.svd(delta, full_matrices=False) for delta in deltas.double().numpy()]
    left = np.concatenate([u[:, :most] for u, _, _ in parts], axis=1)
    sizes = np.concatenate([s[:most] for _, s, _ in parts])
    right = np.concatenate([vh[:most] for _, _, vh in parts], axis=0)
    update = orthogonal(left) @ np.diag(sizes) @ orthogonal(right)
    agree(tsvm(base, deltas, lambda_=0.7), base, 0.7 * update)


@shapes
def test_iso_c(shape):
    base, deltas = draw("base", *shape), task_vectors(shape)
    u, s, vh = np.linalg.svd(deltas.double().numpy().sum(0), full_matrices=False)
    agree(iso_c(base, deltas, lambda_=0.7), base, 0.7 * s.mean() * u @ vh)


@shapes
@pytest.mark.parametrize("common", [0.0, 0.5, 0.8, 1.0])
def test_iso_cts(shape, common):
    base, deltas = draw("base", *shape), task_vectors(shape)
    rows = deltas.double().numpy()
    u, s, vh = np.linalg.svd(rows.sum(0), full_matrices=False)
    own = round((len(s) - int(len(s) * common)) / 3)
    shared = len(s) - 3 * own
    if shared < 0:
        pytest.skip("more directions than there are")
    left, sizes, right = [u[:, :shared]], [s[:shared]], [vh[:shared]]
    for row in rows:
        rest = row - u[:, :shared] @ u[:, :shared].T @ row
        u_own, s_own, vh_own = np.linalg.svd(rest, full_matrices=False)
        left.append(u_own[:, :own])
        sizes.append(s_own[:own])
        right.append(vh_own[:own])
    update = orthogonal(np.concatenate(left, 1)) @ orthogonal(np.concatenate(right, 0))
    update *= np.concatenate(sizes).mean()
    agree(iso_cts(base, deltas, common=common), base, update)


@shapes
def test_knots_of_everything_is_the_mean_of_the_changes_that_agree(shape):
    base, deltas = draw("base", *shape), task_vectors(shape)
    u, s, vh = np.linalg.svd(np.concatenate(deltas.double().numpy(), axis=1), full_matrices=False)
    parts = np.stack(np.split(vh, 3, axis=1))
    agreeing = parts * np.sign(parts.sum(0)) > 0
    update = u @ np.diag(s) @ ((parts * agreeing).sum(0) / agreeing.sum(0))
    agree(knots(base, deltas), base, update)


@pytest.mark.parametrize("shape", [(8, 8), (40, 6), (6, 20)], ids=str)
def test_wudi_is_the_least_squares_solution_nearest_to_the_sum(shape):
    base, deltas = draw("base", *shape), task_vectors(shape, 2)
    rows = deltas.double().numpy()
    inputs = np.concatenate([row / np.linalg.norm(row) for row in rows])
    wanted = np.concatenate([row @ row.T / np.linalg.norm(row) for row in rows])
    start = rows.sum(0)
    change, *_ = np.linalg.lstsq(inputs, wanted - inputs @ start.T, rcond=1e-6)
    agree(wudi(base, deltas), base, start + change.T)


@every_method
def test_a_model_alone_is_itself_but_for_iso(method):
    base, deltas = draw("base", 9, 7), task_vectors((9, 7), 1)
    merged = method(base, deltas)
    if method in (iso_c, iso_cts):
        sizes = torch.linalg.svdvals(merged - base)
        assert sizes.max() - sizes.min() < 1e-4
    else:
        torch.testing.assert_close(merged, base + deltas[0], rtol=1e-4, atol=1e-5)


@every_method
def test_the_order_of_models_does_not_matter(method):
    base, deltas = draw("base", 9, 7), task_vectors((9, 7))
    merged, turned = method(base, deltas), method(base, deltas[[2, 0, 1]])
    torch.testing.assert_close(merged, turned, rtol=1e-4, atol=1e-5)


@every_method
def test_a_model_that_did_not_change_turns_nobody(method):
    base, deltas = draw("base", 9, 7), task_vectors((9, 7), 2)
    deltas[1] = 0
    assert same_span(method(base, deltas) - base, deltas[0])


def same_span(update: torch.Tensor, delta: torch.Tensor) -> bool:
    """Whether the update stays in the row and column space of a change."""
    u, _, vh = svd(delta)
    rest = update - u @ (u.T @ update @ vh.T) @ vh
    return bool(rest.norm() <= 1e-4 * update.norm())


@pytest.mark.parametrize("shape", [(50, 5), (5, 50), (7, 9)], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 3, 5])
def test_svd_leaves_out_directions_without_weight(shape, rank):
    matrix = draw("left", shape[0], rank) @ draw("right", rank, shape[1])
    u, s, vh = svd(matrix)
    assert len(s) == rank
    torch.testing.assert_close((u * s) @ vh, matrix, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(u.T @ u, torch.eye(rank), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vh @ vh.T, torch.eye(rank), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [tsvm, iso_c, iso_cts])
def test_vectors_get_the_mean(method):
    base, deltas = draw("base", 9), draw("deltas", 3, 9)
    torch.testing.assert_close(method(base, deltas), base + deltas.mean(0))
