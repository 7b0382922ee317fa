"""Methods against plain loops, on numbers drawn at random, with many equal, and mostly zero."""

import pytest
import torch
from torch import Tensor

from ledmerge.methods.arcee_fusion import arcee_fusion
from ledmerge.methods.breadcrumbs import breadcrumbs
from ledmerge.methods.breadcrumbs_ties import breadcrumbs_ties
from ledmerge.methods.cabs import cabs
from ledmerge.methods.consensus import consensus
from ledmerge.methods.della import della
from ledmerge.methods.della_linear import della_linear
from ledmerge.methods.karcher import karcher
from ledmerge.methods.model_stock import model_stock
from ledmerge.methods.nearswap import nearswap
from ledmerge.methods.ram import ram
from ledmerge.methods.ramplus_tl import ramplus_tl
from ledmerge.methods.sce import sce
from ledmerge.ops.random import draw_uniform
from methods import by_hand, by_loops
from methods.harness import draw

WEIGHTS = [0.5, -0.25, 1.0]


def numbers(kind: str, count: int, numel: int) -> Tensor:
    """Rows of a kind."""
    values = draw(f"{kind} {numel}", count, numel)
    if kind == "equal":
        return (values * 6).round() / 4
    return values * (draw(f"zeros {numel}", count, numel) > 0.2) if kind == "zeros" else values


kinds = pytest.mark.parametrize("kind", ["random", "equal", "zeros"])
sizes = pytest.mark.parametrize("numel", [2, 7, 60])


@pytest.fixture
def base(numel: int) -> Tensor:
    return draw("base", numel)


def agree(merged: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@kinds
@sizes
@pytest.mark.parametrize(("density", "gamma"), [(0.5, 0.1), (0.3, 0.6), (0.9, 0.5), (1.0, 0.2)])
@pytest.mark.parametrize("rescale", [False, True])
def test_breadcrumbs(base, kind, numel, density, gamma, rescale):
    deltas = numbers(kind, 3, numel)
    options = {"weight": WEIGHTS, "density": density, "gamma": gamma, "rescale": rescale}
    kept = [by_hand.fractions(by_loops.middle(row, density, gamma)) for row in deltas.tolist()]
    if rescale:
        kept = [
            by_hand.restore_l1(row, by_hand.fractions(whole))
            for row, whole in zip(kept, deltas.tolist(), strict=True)
        ]
    for method, convention in ((breadcrumbs, None), (breadcrumbs_ties, "mergekit")):
        if convention and by_hand.has_close_call(kept, WEIGHTS):
            continue
        expected = by_hand.consensus_merge(
            base.tolist(), kept, WEIGHTS, normalize=False, scale=1.0, convention=convention
        )
        agree(method(base, deltas, **options), expected)


@kinds
@pytest.mark.parametrize("shape", [(60,), (4, 15), (60, 1)], ids=str)
@pytest.mark.parametrize(("density", "epsilon"), [(0.5, 0.15), (0.7, 0.25), (0.4, 0.0)])
def test_della(kind, shape, density, epsilon):
    base, deltas = draw("base", 60), numbers(kind, 3, 60)
    drawn = draw_uniform(deltas).tolist()
    kept = []
    for row, numbers_drawn in zip(deltas.tolist(), drawn, strict=True):
        chances = by_loops.chances(row, shape[-1], density, epsilon)
        stays = [u < p for u, p in zip(numbers_drawn, chances, strict=True)]
        assert min(abs(u - p) for u, p in zip(numbers_drawn, chances, strict=True)) > 1e-6
        left = by_hand.fractions([x if stay else 0.0 for x, stay in zip(row, stays, strict=True)])
        kept.append(by_hand.restore_l1(left, by_hand.fractions(row)))
    options = {"weight": WEIGHTS, "density": density, "epsilon": epsilon}
    for method, convention in ((della_linear, None), (della, "mergekit")):
        if convention and by_hand.has_close_call(kept, WEIGHTS):
            continue
        expected = by_hand.consensus_merge(
            base.tolist(),
            kept,
            WEIGHTS,
            normalize=method is della,
            scale=1.0,
            convention=convention,
        )
        merged = method(base.view(shape), deltas.view(3, *shape), **options)
        agree(merged.flatten(), expected)


@pytest.mark.parametrize("numel", [7, 60])
@kinds
def test_model_stock_and_karcher(base, kind, numel):
    deltas = numbers(kind, 3, numel)
    rows = deltas.tolist()
    agree(model_stock(base, deltas), by_loops.model_stock(base.tolist(), rows))
    merged = karcher(deltas, max_iter=100.0, tol=1e-9)
    torch.testing.assert_close(merged, torch.tensor(by_loops.karcher(rows)), rtol=1e-4, atol=1e-5)


def test_karcher_of_equal_lengths_turns_no_model_longer():
    models = torch.nn.functional.normalize(draw("models", 3, 500), dim=1)
    assert karcher(models).norm().item() == pytest.approx(1.0, rel=1e-5)


@kinds
@sizes
@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.0])
def test_sce(base, kind, numel, share):
    deltas = numbers(kind, 3, numel)
    if kind != "random" and share < 1:
        deltas = deltas + draw("no two variances are equal", 3, numel) * 1e-3
    agree(sce(base, deltas, select_topk=share), by_loops.sce(base.tolist(), deltas.tolist(), share))


@kinds
@sizes
def test_ram(base, kind, numel):
    deltas = numbers(kind, 3, numel)
    rows = deltas.tolist()
    agree(ram(base, deltas, epsilon=0.2), by_loops.ram(base.tolist(), rows, 0.2))
    merged = ramplus_tl(base, deltas, epsilon=0.2, r=0.5, alpha=0.7)
    agree(merged, by_loops.ram(base.tolist(), rows, 0.2, 0.5, 0.7))


@kinds
@sizes
@pytest.mark.parametrize("t", [0.0, 0.2, 5.0])
def test_nearswap(base, kind, numel, t):
    other = base + numbers(kind, 1, numel)[0]
    agree(nearswap(base, other, t=t), by_loops.nearswap(base.tolist(), other.tolist(), t))


@kinds
@pytest.mark.parametrize("shape", [(60,), (4, 15)], ids=str)
def test_arcee_fusion(kind, shape):
    base = draw("base", 60)
    other = base + numbers(kind, 1, 60)[0]
    merged = arcee_fusion(base.view(shape), other.view(shape))
    agree(merged.flatten(), by_loops.arcee_fusion(base.tolist(), other.tolist(), shape[-1]))


@kinds
@sizes
@pytest.mark.parametrize("least", [1, 2, 3])
def test_consensus(base, kind, numel, least):
    deltas = numbers(kind, 3, numel)
    merged = consensus(base, deltas, weight=WEIGHTS, tall=0.41, least=float(least))
    agree(merged, by_loops.consensus(base.tolist(), deltas.tolist(), WEIGHTS, 0.41, least))


@kinds
@sizes
@pytest.mark.parametrize("size", [4, 16])
def test_cabs(base, kind, numel, size):
    deltas = numbers(kind, 3, numel)
    merged = cabs(base, deltas, weight=WEIGHTS, density=[0.5, 0.25, 0.5], group=float(size))
    counts = [size // 2, size // 4, size // 2]
    agree(merged, by_loops.cabs(base.tolist(), deltas.tolist(), WEIGHTS, counts, size))


def test_cabs_masks_are_disjoint_and_the_order_may_be_given():
    deltas = torch.ones(2, 8)
    merged = cabs(torch.zeros(8), deltas, density=0.5, group=4.0, weight=[1.0, 2.0])
    assert merged.tolist() == [1, 1, 2, 2, 1, 1, 2, 2]
    turned = cabs(
        torch.zeros(8), deltas, density=0.5, group=4.0, weight=[1.0, 2.0], priority=(1, 0)
    )
    assert turned.tolist() == [2, 2, 1, 1, 2, 2, 1, 1]
