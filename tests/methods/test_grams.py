"""Methods that look at a layer's inputs, against NumPy in float64 on the inputs themselves."""

import numpy as np
import pytest
import torch

from ledmerge.errors import RecipeError
from ledmerge.methods.aim import aim
from ledmerge.methods.esm import esm
from ledmerge.methods.regmean import regmean
from ledmerge.methods.tsvm import tsvm
from methods.harness import draw, make_grams, same_bits

SHAPES = [(8, 8), (6, 20), (40, 6), (5, 2), (1, 7)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
WEIGHTS = [0.5, 0.25, 1.0]


def agree(merged: torch.Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(merged.double(), torch.from_numpy(expected), rtol=2e-4, atol=2e-4)


@shapes
@pytest.mark.parametrize("off_diagonal", [0.0, 0.5, 0.9, 0.99])
def test_regmean_is_a_least_squares_fit_of_all_outputs(shape, off_diagonal):
    """G scaled off the diagonal is the Gram matrix of the inputs and of ones of single features."""
    models, n = draw("models", 3, *shape), shape[1]
    x = draw("inputs", 3, 2 * n, n) + draw("shift", 3, 1, n)
    grams = x.mT @ x / (2 * n)
    inputs, outputs = [], []
    for model, rows, weight in zip(
        models.double().numpy(), x.double().numpy(), WEIGHTS, strict=True
    ):
        together = rows * np.sqrt(weight * off_diagonal / (2 * n))
        sizes = np.sqrt(weight * (1 - off_diagonal) * (rows**2).mean(0))
        for part in (together, np.diag(sizes)):
            inputs.append(part)
            outputs.append(part @ model.T)
    fit, *_ = np.linalg.lstsq(np.concatenate(inputs), np.concatenate(outputs), rcond=None)
    merged = regmean(models, grams=grams, weight=WEIGHTS, off_diagonal=off_diagonal)
    agree(merged, fit.T)


def test_regmean_gives_an_input_to_the_model_that_has_it():
    models = draw("models", 2, 3, 4)
    grams = torch.diag_embed(torch.tensor([[1.0, 0.0, 1e-8, 0.0], [0.0, 5.0, 1e-8, 0.0]]))
    merged = regmean(models, grams=grams)
    expected = torch.stack([models[0, :, 0], models[1, :, 1], *models.mean(0)[:, 2:].T], dim=1)
    torch.testing.assert_close(merged, expected)


def test_regmean_of_inputs_of_very_different_sizes_and_fewer_tokens_than_features():
    models, sizes = draw("models", 2, 5, 64), 10.0 ** torch.linspace(-4, 3, 64)
    even = draw("inputs", 2, 3, 64)
    grams = even.mT @ even / 3
    merged = regmean(models, grams=grams * sizes[:, None] * sizes, off_diagonal=0.99)
    # The same fit where the weights are of inputs all of one size.
    expected = regmean(models * sizes, grams=grams, off_diagonal=0.99)
    torch.testing.assert_close(merged * sizes, expected, rtol=1e-4, atol=1e-3)


def test_regmean_without_grams_is_the_mean_by_weight():
    models = draw("models", 3, 9)
    expected = np.average(models.double().numpy(), axis=0, weights=WEIGHTS)
    agree(regmean(models, weight=WEIGHTS), expected)


@pytest.mark.parametrize(
    "options", [{"weight": -1.0}, {"weight": 0.0}, {"off_diagonal": 1.0}, {"off_diagonal": -0.1}]
)
def test_regmean_refuses_what_has_no_answer(options):
    with pytest.raises(RecipeError, match="regmean: "):
        regmean(torch.zeros(2, 1), **options)


@shapes
@pytest.mark.parametrize("omega", [0.0, 0.4, 1.0])
def test_aim(shape, omega):
    base, deltas, (m, n) = draw("base", *shape), draw("deltas", 3, *shape), shape
    x = draw("inputs", 3, 5, n) + draw("shift", 3, 1, n)
    merged = aim(base, deltas, base_grams=x.mT @ x / 5, weight=WEIGHTS, lambda_=0.7, omega=omega)
    sizes = [np.sqrt(np.mean([float(v) ** 2 for v in x[:, :, j].flatten()])) for j in range(n)]
    expected = base.double().numpy().copy()
    for i in range(m):
        for j in range(n):
            update = sum(w * float(d[i, j]) for w, d in zip(WEIGHTS, deltas, strict=True))
            expected[i, j] += 0.7 * (1 - (1 - omega) * sizes[j] / max(sizes)) * update
    agree(merged, expected)


def test_aim_without_inputs_is_task_arithmetic():
    base, deltas = draw("base", 3, 4), draw("deltas", 2, 3, 4)
    plain = base + deltas.sum(0)
    for grams in (None, torch.zeros(2, 4, 4)):
        torch.testing.assert_close(aim(base, deltas, base_grams=grams), plain)
    with pytest.raises(RecipeError, match=r"'omega' should be from 0 to 1, found 1\.1"):
        aim(base, deltas, omega=1.1)


def orthogonal(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] @ vh[:rank] * s[:rank].mean()


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (40, 6), (5, 2)], ids=str)
@pytest.mark.parametrize("polarize", [True, False])
def test_esm(shape, polarize):
    base, deltas, (m, n) = draw("base", *shape), draw("deltas", 3, *shape), shape
    x = draw("inputs", 3, 3 * n, n) + 0.2 * draw("shift", 3, 1, n)
    rows = deltas.double().numpy()
    most = min(max(1, m // 3), n)
    lefts, rights = [], []
    for delta, inputs in zip(rows, x.double().numpy(), strict=True):
        moved = inputs @ delta.T
        values, vectors = np.linalg.eigh(moved.T @ moved / len(inputs))
        values, vectors = values[::-1][:most], vectors[:, ::-1][:, :most]
        evened = values**0.15 / np.mean(values**0.15)
        left, right = vectors, vectors.T @ delta
        if polarize:
            norms = [np.linalg.norm(row) for row in rows]
            right = right * (np.linalg.norm(delta) / np.mean(norms)) ** 2
        lefts.append(left * evened)
        rights.append(evened[:, None] * right)
    left, right = np.concatenate(lefts, axis=1), np.concatenate(rights)
    if polarize:
        lengths = np.linalg.norm(right, axis=0)
        right = right * (lengths / lengths.mean()) ** 2
    rank = min(3 * most, m), min(3 * most, n)
    update = orthogonal(left, rank[0]) @ orthogonal(right, rank[1])
    merged = esm(base, deltas, grams=x.mT @ x / (3 * n), lambda_=0.7, polarize=polarize)
    agree(merged, base.double().numpy() + 0.7 * update)


def test_esm_follows_the_inputs_that_come():
    """A change of what never comes in is left out, however large."""
    deltas = torch.zeros(1, 6, 4)
    deltas[0, 0, 0], deltas[0, 1, 1] = 1.0, 100.0
    grams = torch.diag_embed(torch.tensor([[2.0, 0.0, 1.0, 1.0]]))
    update = esm(torch.zeros(6, 4), deltas, grams=grams, polarize=False)
    assert update[0, 0] == pytest.approx(1.0)
    assert not update[1].any()


@pytest.mark.parametrize("samples", [1, 30])
def test_esm_takes_no_rounding_of_the_gram_matrix_for_an_input(samples):
    """Fewer tokens than directions: float32 sums of products have all directions nevertheless."""
    deltas, sizes = draw("deltas", 2, 60, 40), 10.0 ** torch.linspace(-2, 1, 40)
    x = draw("inputs", 2, 5, 40) * sizes
    grams = torch.zeros(2, 40, 40)
    for sample in range(samples):
        rows = x * (1 + sample / 7)
        grams += rows.mT @ rows
    lefts, rights = [], []
    for delta, rows in zip(deltas.double().numpy(), x.double().numpy(), strict=True):
        _, shifts, vh = np.linalg.svd(rows @ delta.T, full_matrices=False)
        evened = shifts**0.3 / np.mean(shifts**0.3)
        lefts.append(vh.T * evened)
        rights.append(evened[:, None] * (vh @ delta))
    left, right = np.concatenate(lefts, axis=1), np.concatenate(rights)
    update = orthogonal(left, 10) @ orthogonal(right, 10)
    merged = esm(torch.zeros(60, 40), deltas, grams=grams)
    torch.testing.assert_close(merged.double(), torch.from_numpy(update), rtol=1e-2, atol=1e-3)


def test_esm_without_grams_is_tsvm_and_a_model_that_did_not_change_turns_nobody():
    base, deltas = draw("base", 7, 5), draw("deltas", 2, 7, 5)
    assert same_bits(esm(base, deltas, lambda_=0.3), tsvm(base, deltas, lambda_=0.3))
    deltas[1] = 0
    alone = esm(base, deltas, grams=make_grams(2, 5)) - base
    u, _, vh = torch.linalg.svd(deltas[0], full_matrices=False)
    torch.testing.assert_close(u @ (u.T @ alone @ vh.T) @ vh, alone, rtol=1e-4, atol=1e-4)
    assert torch.linalg.matrix_rank(alone, rtol=1e-3) == 3
    assert same_bits(esm(base, deltas, grams=torch.zeros(2, 5, 5)), base)
