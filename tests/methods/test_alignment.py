"""Methods that compare changes with the direction of alignment, against their dense form."""

import numpy as np
import pytest
import torch

from ledmerge.errors import RecipeError
from ledmerge.methods.safe_lora import safe_lora
from ledmerge.methods.safemerge import safemerge
from methods.harness import draw, same_bits

shapes = pytest.mark.parametrize("shape", [(8, 8), (6, 20), (40, 6)], ids=str)
thresholds = pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.42, 1.0])
WEIGHTS = [9.0, 9.0, 0.5, 0.7]


def changes(shape: tuple[int, ...]) -> torch.Tensor:
    """Before alignment, after safety tuning, and two tasks: one of them partly along alignment."""
    deltas = draw(f"deltas {shape}", 4, *shape)
    deltas[3] += 0.5 * deltas[0]
    return deltas


def turned(direction: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, float]:
    along = direction @ direction.T / np.linalg.norm(direction) @ delta
    return along, (along * delta).sum() / np.linalg.norm(along) / np.linalg.norm(delta)


def agree(merged: torch.Tensor, base: torch.Tensor, update: np.ndarray) -> None:
    torch.testing.assert_close(
        (merged - base).double(), torch.from_numpy(update), rtol=1e-4, atol=1e-4
    )


@shapes
@thresholds
def test_safe_lora(shape, threshold):
    base, deltas = draw("base", *shape), changes(shape)
    rows = deltas.double().numpy()
    update = np.zeros(shape)
    for place in (1, 2, 3):
        along, cosine = turned(rows[0], rows[place])
        update += WEIGHTS[place] * (along if cosine <= threshold else rows[place])
    merged = safe_lora(base, deltas, unaligned=[0], weight=WEIGHTS, threshold=threshold)
    agree(merged, base, update)


@shapes
@thresholds
def test_safemerge(shape, threshold):
    base, deltas = draw("base", *shape), changes(shape)
    rows = deltas.double().numpy()
    update = np.zeros(shape)
    for place in (2, 3):
        _, cosine = turned(rows[0], rows[place])
        mixed = 0.7 * rows[place] + 0.3 * rows[1]
        update += WEIGHTS[place] * (mixed if cosine < threshold else rows[place])
    options = {"unaligned": [0], "safe": [1], "weight": WEIGHTS, "threshold": threshold}
    agree(safemerge(base, deltas, **options, share=0.3), base, update)


def test_a_change_is_judged_by_its_direction_alone():
    deltas = changes((8, 8))
    task = deltas[[0, 3]]
    merged = safe_lora(torch.zeros(8, 8), task, unaligned=[0], threshold=0.0)
    torch.testing.assert_close(merged, task[1])
    turned, longer = (
        safe_lora(
            torch.zeros(8, 8),
            task * torch.tensor([size, 1]).view(2, 1, 1),
            unaligned=[0],
            threshold=1.0,
        )
        for size in (1.0, -5.0)
    )
    torch.testing.assert_close(longer, 5 * turned, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(9,), (4, 1), ()], ids=str)
def test_what_is_no_matrix_keeps_its_change(shape):
    base, deltas = draw("base", *shape), draw("deltas", 3, *shape)
    torch.testing.assert_close(safe_lora(base, deltas, unaligned=[1]), base + deltas[0] + deltas[2])
    torch.testing.assert_close(safemerge(base, deltas, unaligned=[1], safe=[0]), base + deltas[2])


def test_where_alignment_changed_nothing():
    base, deltas = draw("base", 5, 4), draw("deltas", 3, 5, 4)
    deltas[0] = 0
    assert same_bits(safe_lora(base, deltas[:2], unaligned=[0], threshold=1.0), base + deltas[1])
    mixed = base + 0.8 * deltas[2] + 0.2 * deltas[1]
    torch.testing.assert_close(safemerge(base, deltas, unaligned=[0], safe=[1]), mixed)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unaligned": []}, "'unaligned' should name one model, found 0"),
        ({"unaligned": [0, 1]}, "'unaligned' should name one model, found 2"),
        ({"unaligned": [0], "safe": []}, "'safe' should name one model, found 0"),
        ({"unaligned": [0], "safe": [0]}, "'unaligned' and 'safe' should name two models"),
        ({"unaligned": [0], "safe": [1]}, "there is no model besides 'unaligned' and 'safe'"),
    ],
    ids=str,
)
def test_the_models_compared_with_must_be_named(options, said):
    method = safemerge if "safe" in options else safe_lora
    with pytest.raises(RecipeError, match=said):
        method(torch.zeros(2, 2), torch.zeros(2, 2, 2), **options)
    if method is safe_lora:
        with pytest.raises(RecipeError, match="no model besides 'unaligned'"):
            safe_lora(torch.zeros(2, 2), torch.zeros(1, 2, 2), unaligned=[0])
