"""Methods that are told how much entries matter, against plain loops."""

import pytest
import torch
from torch import Tensor

from ledmerge.errors import RecipeError
from ledmerge.methods.fisher import fisher
from ledmerge.methods.obim import obim
from ledmerge.methods.reason_any import reason_any
from methods import by_loops
from methods.harness import draw, same_bits

WEIGHTS = [0.5, 0.25, 1.0]
SHARES = [0.3, 0.6, 0.5]

kinds = pytest.mark.parametrize("kind", ["random", "equal", "zeros"])
sizes = pytest.mark.parametrize("numel", [2, 7, 60])


def scores(kind: str, numel: int) -> Tensor:
    """Real ones, few different ones, or none at all."""
    values = draw(f"scores {kind}", 3, numel).abs()
    return {"random": values, "equal": (values * 6).round(), "zeros": values * 0}[kind]


def agree(merged: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@kinds
@sizes
@pytest.mark.parametrize("floor", [1e-6, 0.5])
@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_fisher(kind, numel, floor, scale):
    models, given = draw("models", 3, numel), scores(kind, numel) * scale
    merged = fisher(models, scores=given, weight=WEIGHTS, floor=floor)
    agree(merged, by_loops.fisher(models.tolist(), given.tolist(), WEIGHTS, floor))


def test_fisher_normalized_does_not_see_the_scale_of_a_loss():
    models, given = draw("models", 3, 60), scores("random", 60)
    scaled = given * torch.tensor([[1.0], [1e-6], [1e4]])
    merged = fisher(models, scores=given / given.mean(1, keepdim=True))
    torch.testing.assert_close(fisher(models, scores=scaled, normalize=True), merged)


def test_fisher_takes_the_model_that_is_sure_and_without_fisher_the_mean():
    models = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    merged = fisher(models, scores=torch.tensor([[1.0, 0.0], [0.0, 0.0]]), floor=1e-9)
    torch.testing.assert_close(merged, torch.tensor([1.0, 4.0]))


@pytest.mark.parametrize(
    "options",
    [{"weight": -1.0}, {"weight": 0.0}, {"floor": 0.0}, {"floor": 1e-50}, {"floor": float("nan")}],
    ids=str,
)
def test_fisher_refuses_what_gives_no_average(options):
    with pytest.raises(RecipeError, match="fisher: "):
        fisher(torch.zeros(2, 1), scores=torch.zeros(2, 1), **options)


@kinds
@sizes
def test_obim(kind, numel):
    base, deltas, given = draw("base", numel), draw("deltas", 3, numel), scores(kind, numel)
    merged = obim(base, deltas, scores=given, density=SHARES, weight=WEIGHTS)
    rows = deltas.tolist(), given.tolist()
    agree(merged, by_loops.obim(base.tolist(), *rows, SHARES, WEIGHTS))


def test_obim_lets_those_named_write_first():
    ones = torch.ones(2, 4)
    options = {"scores": ones, "density": [0.5, 1.0], "weight": [1.0, 2.0]}
    assert obim(torch.zeros(4), ones, **options).tolist() == [1, 1, 2, 2]
    assert obim(torch.zeros(4), ones, **options, priority=(1,)).tolist() == [2, 2, 2, 2]


@kinds
@sizes
@pytest.mark.parametrize("lowest", [[], [1], [2, 0], [0, 1, 2]], ids=str)
def test_reason_any(kind, numel, lowest):
    base, deltas, given = draw("base", numel), draw("deltas", 3, numel), scores(kind, numel)
    bands = [
        by_loops.band(row, share, lowest=model in lowest)
        for model, (row, share) in enumerate(zip(given.tolist(), SHARES, strict=True))
    ]
    merged = reason_any(base, deltas, scores=given, lowest=lowest, density=SHARES, weight=WEIGHTS)
    agree(merged, by_loops.reason_any(base.tolist(), deltas.tolist(), bands, WEIGHTS))


@pytest.mark.parametrize("method", [obim, reason_any])
def test_what_was_elected_and_kept_is_counted(method):
    told: dict[str, Tensor] = {}
    options = {"lowest": []} if method is reason_any else {}
    deltas = torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    given = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    merged = method(
        torch.zeros(2), deltas, scores=given, density=[0.5, 1.0], record=told.update, **options
    )
    assert told["elected"].tolist() == [[1, 1], [1, 2]]
    assert told["owned"].tolist() == ([1, 1] if method is obim else [0, 1])
    assert told["square"].tolist() == [25, 2]
    assert same_bits(merged, torch.tensor([3.0, 1.0] if method is obim else [0.0, 1.0]))
