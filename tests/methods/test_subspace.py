"""Subspace methods against their textbook form: dense decompositions in float64."""

from functools import partial

import numpy as np
import pytest
import torch

from ledmerge.methods import doge as doge_module
from ledmerge.methods.doge import doge
from ledmerge.methods.iso_c import iso_c
from ledmerge.methods.iso_cts import iso_cts
from ledmerge.methods.knots import knots
from ledmerge.methods.lore import lore
from ledmerge.methods.opcm import opcm
from ledmerge.methods.r_tsvm import r_tsvm
from ledmerge.methods.tsvm import tsvm
from ledmerge.methods.wudi import SMALLEST, wudi
from ledmerge.ops.svd import svd
from ledmerge.types import Earlier
from methods.harness import draw

SHAPES = [(8, 8), (6, 20), (40, 6), (5, 2)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
UNCUT = partial(r_tsvm, sigmas=1e6)
"""What cutting outliers does is tested apart."""
METHODS = [tsvm, UNCUT, iso_c, iso_cts, knots, opcm, wudi]
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


def lower_median(row: np.ndarray) -> float:
    return np.sort(row)[(len(row) - 1) // 2]


@shapes
@pytest.mark.parametrize("sigmas", [0.5, 3.0])
def test_r_tsvm(shape, sigmas):
    base, deltas = draw("base", *shape), task_vectors(shape) ** 3
    deltas[1] *= draw("zeros", *shape) > 0
    cut = deltas.double().numpy()
    for delta in cut:
        for row in delta:
            sizes = np.abs(row[row != 0])
            if len(sizes):
                middle = lower_median(sizes)
                spread = 1.4826 * lower_median(np.abs(sizes - middle))
                row[:] = np.sign(row) * np.minimum(np.abs(row), middle + sigmas * spread)
    counts = [int((np.abs(delta) >= 0.2 * np.abs(delta).max()).sum()) for delta in cut]
    left, sizes, right = [], [], []
    for delta, count in zip(cut, counts, strict=True):
        most = max(1, min(shape) * count // sum(counts))
        u, s, vh = np.linalg.svd(delta, full_matrices=False)
        left.append(u[:, :most])
        sizes.append(s[:most])
        right.append(vh[:most])
    update = orthogonal(np.concatenate(left, 1)) @ np.diag(np.concatenate(sizes))
    update = update @ orthogonal(np.concatenate(right, 0))
    agree(r_tsvm(base, deltas, sigmas=sigmas, negligible=0.2, lambda_=0.7), base, 0.7 * update)


def test_r_tsvm_gives_denser_changes_more_directions():
    deltas = task_vectors((12, 12), 2)
    deltas[1, 1:] *= 1e-4
    update = r_tsvm(torch.zeros(12, 12), deltas)
    assert torch.linalg.matrix_rank(update, rtol=1e-3) == 12 * 12 // 13 + 1


@shapes
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_opcm(shape, alpha):
    base, deltas = draw("base", *shape), task_vectors(shape)
    rows = deltas.double().numpy()
    merged, factor = rows[0], 1.0
    for count, delta in enumerate(rows[1:], start=2):
        u, s, vh = np.linalg.svd(merged)
        apart = u.T @ delta @ vh.T
        np.fill_diagonal(apart, 0)
        leading = next((k for k in range(1, len(s)) if s[:k].sum() > alpha * s.sum()), len(s))
        apart[:leading, :leading] = 0
        whole = factor * merged + u @ apart @ vh
        mean = np.mean([np.linalg.norm(row) for row in rows[:count]])
        factor = np.linalg.norm(whole) / mean
        merged = whole / factor
    agree(opcm(base, deltas, alpha=alpha), base, merged)


def left_by(base: torch.Tensor, deltas: torch.Tensor, dtype: torch.dtype, **options):
    """An earlier merge as stored: its change of the base, and what it left."""
    told: dict[str, torch.Tensor] = {}
    merged = opcm(base, deltas, **options, record=told.update).to(dtype).float()
    rounding = torch.finfo(dtype).eps / 2
    return merged - base, Earlier(told["lengths"].tolist(), told["merged"].item(), rounding)


@pytest.mark.parametrize("shape", [(), (9,), *SHAPES, (60, 80)], ids=str)
@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_opcm_goes_on_where_it_was(shape, first, alpha):
    base, deltas = draw("base", *shape), draw("deltas", 3, *shape) / 20
    change, earlier = left_by(base, deltas[:first], torch.float32, alpha=alpha)
    later = opcm(base, torch.cat([change[None], deltas[first:]]), alpha=alpha, earlier=earlier)
    once = opcm(base, deltas, alpha=alpha)
    assert (later - once).norm() <= 1e-5 * (once - base).norm()


@pytest.mark.parametrize(
    ("dtype", "size", "most"),
    [(torch.float32, 1e-4, 1e-3), (torch.bfloat16, 0.05, 0.08)],
    ids=["float32", "bfloat16"],
)
def test_opcm_takes_no_rounding_for_a_direction(dtype, size, most):
    """Stored, a change of low rank has all directions; most of them are rounding."""
    base, left, right = draw("base", 60, 80), draw("left", 3, 60, 2), draw("right", 3, 2, 80)
    deltas = left @ right * size
    change, earlier = left_by(base, deltas[:2], dtype)
    later = opcm(base, torch.cat([change[None], deltas[2:]]), earlier=earlier)
    once = opcm(base, deltas)
    assert (later - once).norm() <= most * (once - base).norm()


def test_opcm_adds_vectors_up_and_keeps_their_mean_length():
    base, deltas = torch.zeros(9), draw("deltas", 3, 9)
    merged = opcm(base, deltas)
    torch.testing.assert_close(merged.norm(), deltas.norm(dim=1).mean())
    torch.testing.assert_close(merged / merged.norm(), deltas.sum(0) / deltas.sum(0).norm())


@shapes
def test_doge(shape, monkeypatch):
    monkeypatch.setattr(doge_module, "TOLERANCE", 1e-12)
    base, deltas = draw("base", *shape), task_vectors(shape)
    rows, (m, n) = deltas.double().numpy(), shape
    factors = [0.5 / np.linalg.norm(row) for row in rows]
    leading = [
        np.linalg.svd(row, full_matrices=False)[0][:, : max(1, min(shape) // 3)] for row in rows
    ]
    u, _, _ = np.linalg.svd(np.concatenate(leading, axis=1), full_matrices=False)
    shared = u[:, : min(shape) // 3]
    apart = np.kron(np.eye(m) - shared @ shared.T, np.eye(n))
    total = sum(f * row for f, row in zip(factors, rows, strict=True))
    seen, wanted = [], []
    for row in rows:
        for i in range(m):
            place = np.zeros((m, n))
            place[i] = row[i] * sum(factors)
            seen.append(place.ravel())
            wanted.append(row[i] @ (row[i] - total[i]))
    offset, *_ = np.linalg.lstsq(np.array(seen) @ apart, np.array(wanted), rcond=1e-9)
    offset = (apart @ offset).reshape(shape)
    update = np.zeros(shape)
    for f, row in zip(factors, rows, strict=True):
        kept = np.zeros(m * n)
        kept[np.argsort(-np.abs(row.ravel()), kind="stable")[: int(0.6 * m * n)]] = 1
        update += f * (row + offset) * kept.reshape(shape)
    agree(doge(base, deltas, density=0.6, eta=0.5, subspace=3.0), base, update)


def test_doge_scales_vectors_alike():
    deltas = torch.diag(torch.tensor([4.0, -2.0, 1.0]))
    merged = doge(torch.zeros(3), deltas, density=1.0, eta=0.5)
    torch.testing.assert_close(merged, torch.tensor([0.5, -0.5, 0.5]))


@shapes
@pytest.mark.parametrize("mu", [0.0, 0.4, 9.0])
def test_lore(shape, mu):
    models = draw("base", *shape) + task_vectors(shape)
    rows = models.double().numpy()
    changes = np.zeros_like(rows)
    for _ in range(5):
        start = (rows - changes).mean(0)
        for place, row in enumerate(rows):
            u, s, vh = np.linalg.svd(row - start, full_matrices=False)
            changes[place] = u @ np.diag(np.maximum(s - mu, 0)) @ vh
    update = start + 0.7 * changes.sum(0)
    agree(lore(models, mu=mu, steps=5.0, lambda_=0.7), torch.zeros(shape), update)


def test_lore_of_vectors_is_the_mean():
    models = draw("models", 3, 9)
    torch.testing.assert_close(lore(models), models.mean(0))


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


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (300, 280)], ids=str)
@pytest.mark.parametrize("is_stored", [False, True])
def test_iso_cts_finds_nothing_of_its_own_where_all_is_shared(shape, is_stored):
    """Of changes by adapters nothing is left beside the shared directions, but for rounding."""
    base = draw("base", *shape)
    deltas = draw("left", 2, shape[0], 4) @ draw("right", 2, 4, shape[1]) / 20
    if is_stored:
        deltas = (base + deltas) - base
    zero = torch.zeros(shape)
    torch.testing.assert_close(iso_cts(zero, deltas), iso_c(zero, deltas), rtol=1e-3, atol=1e-5)


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


@pytest.mark.parametrize(("size", "times"), [(2e-3, 1.0), (5e-4, 2.0)])
def test_wudi_leaves_what_changed_by_less_than_a_thousandth_of_the_most_as_in_the_sum(size, times):
    deltas = torch.diag(torch.tensor([1.0, size])).repeat(2, 1, 1)
    merged = wudi(torch.zeros(2, 2), deltas)
    torch.testing.assert_close(merged, torch.diag(torch.tensor([1.0, times * size])))
    assert (size < SMALLEST) == (times == 2.0)


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
    if method is opcm:
        pytest.skip("models come one by one")
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


@pytest.mark.parametrize("method", [tsvm, r_tsvm, iso_c, iso_cts])
def test_vectors_get_the_mean(method):
    base, deltas = draw("base", 9), draw("deltas", 3, 9)
    torch.testing.assert_close(method(base, deltas), base + deltas.mean(0))
