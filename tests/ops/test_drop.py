"""DARE's dropping, with the chances given."""

import torch

from ledmerge.ops.drop import drop_and_rescale
from ledmerge.ops.survey import WHOLE

DELTAS = torch.tensor([[1.0, -2.0, 4.0, 8.0]])


def drop(density: float, **options) -> list[float]:
    chances = torch.tensor([[0.0, 0.25, 0.5, 0.75]])
    options = {"rescale": True, "convention": "mergekit", "survey": WHOLE} | options
    return drop_and_rescale(DELTAS, density=density, random=lambda _: chances, **options)[
        0
    ].tolist()


def test_an_entry_stays_whose_number_is_below_the_density():
    assert drop(0.5, rescale=False) == [1, -2, 0, 0]
    assert drop(0.51, rescale=False) == [1, -2, 4, 0]


def test_mergekit_scales_to_the_norm_of_the_whole():
    assert drop(0.5) == [5, -10, 0, 0]


def test_the_paper_divides_by_the_density():
    assert drop(0.5, convention="paper") == [2, -4, 0, 0]


def test_nothing_and_all_can_be_kept():
    for convention in ("mergekit", "paper"):
        assert drop(0.0, convention=convention) == [0, 0, 0, 0]
        assert drop(1.0, convention=convention) == DELTAS[0].tolist()


def test_the_papers_expectation_is_the_change_itself():
    deltas = torch.ones(1, 100_000)
    kept = drop_and_rescale(
        deltas,
        density=0.2,
        rescale=True,
        convention="paper",
        random=lambda like: torch.rand(like.shape, generator=torch.Generator().manual_seed(0)),
        survey=WHOLE,
    )
    assert abs(kept.mean().item() - 1) < 0.03
