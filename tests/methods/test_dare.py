"""Both DAREs against loops over exact fractions, with the chances given."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ledmerge.methods.dare_linear import dare_linear
from ledmerge.methods.dare_ties import dare_ties
from methods.by_hand import consensus_merge, drop, fractions, has_close_call, restore_l1
from ops.small import CHANCES, DENSITIES, WEIGHTS, picks, tables


@pytest.mark.parametrize("method", [dare_linear, dare_ties], ids=lambda method: method.__name__)
@pytest.mark.parametrize("convention", ["mergekit", "paper"])
@pytest.mark.parametrize("rescale", [False, True])
@given(data=st.data(), rows=tables((2, 4), (1, 20)), normalize=st.booleans())
def test_equals_the_paper_by_hand(method, convention, rescale, data, rows, normalize):
    base, *deltas = rows
    weights = data.draw(picks(WEIGHTS, len(deltas)), "weights")
    densities = data.draw(picks(DENSITIES, len(deltas)), "densities")
    chances = data.draw(tables(len(deltas), len(base), CHANCES), "chances")
    whole = [fractions(delta) for delta in deltas]
    kept = [drop(*three) for three in zip(whole, chances, densities, strict=True)]
    if rescale and convention == "mergekit":
        kept = [restore_l1(*pair) for pair in zip(kept, whole, strict=True)]
    elif rescale:
        kept = [
            [change / fractions([density])[0] if density else change for change in row]
            for row, density in zip(kept, densities, strict=True)
        ]
    if rescale and method is dare_ties:
        assume(not has_close_call(kept, weights))
    expected = consensus_merge(
        base,
        kept,
        weights,
        normalize=normalize,
        scale=0.5,
        convention=convention if method is dare_ties else None,
    )
    merged = method(
        torch.tensor(base).float(),
        torch.tensor(deltas).float(),
        weight=weights,
        density=densities,
        normalize=normalize,
        rescale=rescale,
        lambda_=0.5,
        convention=convention,
        random=lambda _: torch.tensor(chances),
    )
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("method", [dare_linear, dare_ties], ids=lambda method: method.__name__)
@pytest.mark.parametrize("convention", ["mergekit", "paper"])
def test_density_1_drops_nothing(method, convention):
    base, deltas = torch.zeros(50), torch.arange(-50.0, 50.0).view(2, 50)
    whole = method(base, deltas, convention=convention, rescale=False)
    assert torch.equal(method(base, deltas, convention=convention), whole)


def test_on_average_a_dropped_change_is_the_change():
    deltas = torch.full((1, 200_000), 0.01)
    merged = dare_linear(torch.zeros(200_000), deltas, density=0.1, convention="paper")
    assert abs(merged.mean().item() / 0.01 - 1) < 0.03
    assert (merged == 0).float().mean().item() == pytest.approx(0.9, abs=0.005)
