"""TIES against loops over exact fractions, in both conventions."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from ledmerge.methods._catalog import get_method
from ledmerge.methods.ties import ties
from methods.by_hand import consensus_merge, fractions, has_close_call, restore_l1, trim
from methods.harness import merge_in_blocks
from ops.small import DENSITIES, WEIGHTS, picks, tables


@pytest.mark.parametrize("convention", ["mergekit", "paper"])
@pytest.mark.parametrize("rescale", [False, True])
@given(data=st.data(), rows=tables((2, 5), (1, 20)), normalize=st.booleans())
def test_equals_the_paper_by_hand(convention, rescale, data, rows, normalize):
    base, *deltas = rows
    weights = data.draw(picks(WEIGHTS, len(deltas)), "weights")
    densities = data.draw(picks(DENSITIES, len(deltas)), "densities")
    scale = data.draw(st.sampled_from([0.5, 1.0]))
    whole = [fractions(delta) for delta in deltas]
    kept = [trim(delta, density) for delta, density in zip(whole, densities, strict=True)]
    if rescale:
        kept = [restore_l1(*pair) for pair in zip(kept, whole, strict=True)]
        assume(not has_close_call(kept, weights))
    expected = consensus_merge(
        base, kept, weights, normalize=normalize, scale=scale, convention=convention
    )
    merged = ties(
        torch.tensor(base).float(),
        torch.tensor(deltas).float(),
        weight=weights,
        density=densities,
        normalize=normalize,
        rescale=rescale,
        lambda_=scale,
        convention=convention,
    )
    torch.testing.assert_close(merged, torch.tensor(expected), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("convention", "update"), [("mergekit", 2), ("paper", 0)])
def test_a_sum_of_zero_elects_plus_in_mergekit_and_nobody_in_the_paper(convention, update):
    deltas = torch.tensor([[2.0], [-2.0]])
    assert ties(torch.zeros(1), deltas, convention=convention).tolist() == [update]


def test_only_the_models_that_agree_are_averaged():
    deltas = torch.tensor([[1.0, 3.0], [5.0, -1.0], [-2.0, 0.0]])
    assert ties(torch.zeros(2), deltas).tolist() == [3, 3]


def test_a_small_tensor_keeps_at_least_one_entry():
    deltas = torch.tensor([[1.0, -2.0, 1.0]])
    assert ties(torch.zeros(3), deltas, density=0.1).tolist() == [0, -2, 0]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_wide_scope_trims_over_all_tensors(scope):
    method, sizes = get_method("ties"), [3, 70_000, 12]
    options = {"density": 0.3, "scope": scope}
    tensors = [
        {
            "base": torch.zeros(size),
            "deltas": torch.randn(2, size, generator=torch.Generator().manual_seed(size)).round(
                decimals=1
            ),
        }
        for size in sizes
    ]
    end_to_end = {name: torch.cat([t[name] for t in tensors], -1) for name in tensors[0]}
    merged = merge_in_blocks(method, tensors, options)
    assert torch.equal(torch.cat(merged), ties(**end_to_end, **options))
