"""The loops over models give the bits that torch's operations give, one after the other."""

import pytest
import torch

from ledmerge.ops import fused
from ledmerge.ops.add import add, add_distances
from ledmerge.ops.consensus import agreeing, merge_changes
from ledmerge.ops.per_model import model_sum, weighted_sum

SIZES = [1, 2, 3, 99, fused.CHUNK - 1, fused.CHUNK, fused.CHUNK + 1, 2 * fused.CHUNK + 929]
WEIGHTS = [0.3, -0.7, 1.1]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    """Among ordinary numbers many zeros of both signs, many that cancel, a few huge and tiny."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-3, 4, shape, generator=generator).float()
    values *= torch.where(torch.rand(shape, generator=generator) < 0.5, 1.0, -1.0)
    odd = torch.rand(shape, generator=generator)
    values += torch.where(odd < 0.3, torch.randn(shape, generator=generator), 0.0)
    return values * torch.where(odd > 0.9, 1e30, 1.0) * torch.where(odd > 0.95, 1e-37, 1.0)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.shape == theirs.shape and torch.equal(
        ours.view(torch.int32), theirs.contiguous().view(torch.int32)
    )


@pytest.mark.parametrize("size", SIZES)
def test_weighted_sum(size: int):
    stack, weights = draw(3, size), torch.tensor(WEIGHTS)
    assert same(weighted_sum(WEIGHTS, stack), model_sum(stack * weights[:, None]))


@pytest.mark.parametrize("origin", [0, 1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_add_distances(size: int, origin: int):
    stack, weights = draw(3, size), torch.tensor(WEIGHTS)
    change = model_sum((stack - stack[origin]) * weights[:, None])
    expected = stack[origin] * 0.9 - (0.0 - change)
    assert same(add_distances(stack, origin, WEIGHTS, 0.9), expected)


@pytest.mark.parametrize("size", SIZES)
def test_add(size: int):
    weight, change = draw(size, seed=1), draw(size, seed=2)
    assert same(add(weight, change), weight - (0.0 - change))


def by_torch(base, changes, weights, scale, normalize, consensus):
    weighted = changes * weights
    if consensus is None:
        update = model_sum(weighted)
        return base - (0.0 - (update / model_sum(weights) if normalize else update) * scale)
    agree = agreeing(weighted, consensus)
    update = model_sum(weighted * agree)
    if normalize:
        divisor = model_sum(agree * weights)
        update /= divisor + (divisor.abs() < 1e-8).float() * (1 - divisor)
    return base - (0.0 - update * scale)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("consensus", [None, "mergekit", "paper"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_merge_changes(size: int, normalize: bool, consensus: str | None, masked: bool):
    base, changes = draw(size, seed=3), draw(3, size, seed=4)
    keep = (draw(3, size, seed=5) > 0).float() if masked else None
    merged = merge_changes(
        base,
        changes,
        weight=WEIGHTS,
        keep=keep,
        normalize=normalize,
        scale=0.9,
        consensus=consensus,
    )
    weights, kept = torch.tensor(WEIGHTS)[:, None], changes * keep if masked else changes
    assert same(merged, by_torch(base, kept, weights, 0.9, normalize, consensus))


def test_other_layouts_are_left_to_torch():
    stack = draw(3, 8, 4).transpose(1, 2)
    assert not fused.is_fusible(stack)
    assert same(
        weighted_sum(WEIGHTS, stack), model_sum(stack * torch.tensor(WEIGHTS)[:, None, None])
    )


@pytest.mark.parametrize("size", SIZES)
def test_keep_below(size: int):
    changes, drawn = draw(3, size), draw(3, size, seed=6)
    for chances in (torch.tensor([[0.3], [0.0], [1.0]]), draw(3, size, seed=7)):
        expected = changes * (drawn < chances).float()
        assert same(fused.keep_below(changes, drawn, chances), expected)
