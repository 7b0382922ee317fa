"""Rank codes against a stable sort, and what they answer against `Selection`."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.ops.blocks import BLOCK
from ledmerge.ops.rank_codes import STEPS, rank_codes, top_of_codes
from ledmerge.ops.survey import WHOLE
from ops.blockwise import in_blocks
from ops.elsewhere import elsewhere


def by_sorting(values: Tensor) -> Tensor:
    """The definition: 256 - j for the smallest j whose top int(j / 256 * n) hold the entry."""
    flat = np.abs(values.flatten().numpy().astype(np.float64))
    ranks = np.empty(len(flat), dtype=int)
    ranks[np.argsort(-flat, kind="stable")] = np.arange(len(flat))
    sizes = [int(j / STEPS * len(flat)) for j in range(STEPS + 1)]
    smallest = [next(j for j, size in enumerate(sizes) if size > rank) for rank in ranks]
    return torch.tensor([STEPS - j for j in smallest], dtype=torch.uint8).view(values.shape)


def drawn(kind: str, *shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    if kind == "zeros":
        return torch.zeros(shape)
    if kind == "few":
        return torch.randint(-2, 3, shape, generator=draw).float()
    if kind == "near":  # one bucket of the upper bits holds them all
        return 1 + torch.rand(shape, generator=draw) / 1000
    return torch.randn(shape, generator=draw) * torch.randn(shape, generator=draw).exp()


@pytest.mark.parametrize("kind", ["many", "few", "near", "zeros"])
@pytest.mark.parametrize("numel", [0, 1, 2, 3, 99, 255, 256, 257, 5_003])
@pytest.mark.parametrize("most", [0, 10_000], ids=["counted", "sorted"])
def test_codes_are_those_of_a_stable_sort(kind, numel, most, monkeypatch):
    monkeypatch.setattr("ledmerge.ops.rank_codes.SORTED", most)
    values = drawn(kind, numel)
    codes = rank_codes(values)
    assert codes.dtype == torch.uint8
    assert torch.equal(codes, by_sorting(values))


@pytest.mark.parametrize("shape", [(), (7, 13), (3, 1, 5)], ids=str)
def test_codes_have_the_shape_of_the_tensor(shape):
    values = drawn("many", *shape)
    assert torch.equal(rank_codes(values), by_sorting(values))


@pytest.mark.parametrize("kind", ["many", "few"])
@pytest.mark.parametrize("numel", [1, 99, 3_001])
def test_every_step_chooses_what_the_scores_choose(kind, numel):
    values = drawn(kind, 2, numel)
    codes = torch.stack([rank_codes(row) for row in values])
    for step in range(STEPS + 1):
        shares = [step / STEPS, 1 - step / STEPS]
        (expected,) = WHOLE.top(values, shares=shares)
        (found,) = WHOLE.top(codes, shares=shares)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected), step


def test_the_torch_path_chooses_the_same():
    codes = rank_codes(drawn("few", 99))[None]
    found = top_of_codes(elsewhere(codes), [0.25])
    assert torch.equal(found.as_subclass(Tensor), top_of_codes(codes, [0.25]))


def test_a_block_is_answered_at_once():
    values = drawn("few", 2, 2 * BLOCK + 5)
    codes = torch.stack([rank_codes(row) for row in values])
    shares = [0.25, 100 / STEPS]

    def ask(survey, place, start, stop):
        return survey.top(codes[:, start:stop].contiguous(), shares=shares)[0]

    (masks,), passes = in_blocks([codes.shape[1]], ask)
    assert torch.equal(masks, WHOLE.top(values, shares=shares)[0])
    assert passes == 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"shares": [0.1]}, r"density: found 0\.1, .* write 0\.09765625 .* or 0\.1015625 "),
        ({"shares": [0.5], "largest": False}, "lowest scores .*'select: bottom' or 'lowest'"),
        ({"shares": [0.5], "scope": "layer"}, "scope: found 'layer', .* write 'scope: tensor'"),
    ],
)
@pytest.mark.parametrize("numel", [1, 99])
def test_what_codes_do_not_tell_is_refused(asked, said, numel):
    codes = torch.zeros(1, numel, dtype=torch.uint8)
    with pytest.raises(RecipeError, match=rf"{said}.*`store: float32`"):
        WHOLE.top(codes, **asked)
    with pytest.raises(RecipeError, match=r"disjoint: winner.*`store: float32`"):
        WHOLE.rank(codes)
