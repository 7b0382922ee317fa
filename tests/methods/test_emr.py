"""EMR against loops over Python floats."""

import pytest
import torch

from ledmerge.methods.emr import emr
from methods.harness import draw, integers


def by_loops(base: list[float], deltas: list[list[float]]):
    """Merged weights, masks, and the sums that the rescalers are made of."""
    merged, masks = [], [[] for _ in deltas]
    for entry, start in enumerate(base):
        column = [row[entry] for row in deltas]
        total = sum(column)
        agreeing = [change for change in column if change * total > 0]
        unified = max(agreeing, key=abs) if agreeing else 0.0
        merged.append(start + unified)
        for mask, change in zip(masks, column, strict=True):
            mask.append(1.0 if change * unified > 0 else 0.0)
    taus = [m - b for m, b in zip(merged, base, strict=True)]
    size = [sum(map(abs, row)) for row in deltas]
    kept = [sum(abs(t) * m for t, m in zip(taus, mask, strict=True)) for mask in masks]
    return merged, masks, size, kept


@pytest.mark.parametrize("kind", [integers, draw])
@pytest.mark.parametrize("numel", [1, 7, 200])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_emr(kind, numel, count):
    base, deltas = kind("base", numel), kind("deltas", count, numel)
    told: dict[str, torch.Tensor] = {}
    merged = emr(base, deltas, keep=told.update, record=told.update)
    expected, masks, size, kept = by_loops(base.tolist(), deltas.tolist())
    torch.testing.assert_close(merged, torch.tensor(expected))
    assert told["masks"].tolist() == masks
    torch.testing.assert_close(told["size"], torch.tensor(size, dtype=torch.float64))
    torch.testing.assert_close(told["kept"], torch.tensor(kept, dtype=torch.float64))


def test_changes_that_cancel_elect_nobody_and_one_against_two_gets_no_say():
    told: dict[str, torch.Tensor] = {}
    deltas = torch.tensor([[2.0, 1.0, 0.0], [-2.0, 1.5, 0.0], [0.0, -9.0, 3.0]])
    merged = emr(torch.zeros(3), deltas[:2], keep=told.update)
    assert merged.tolist() == [0.0, 1.5, 0.0]
    merged = emr(torch.zeros(3), deltas, keep=told.update)
    assert merged.tolist() == [0.0, -9.0, 3.0]
    assert told["masks"].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 1]]
