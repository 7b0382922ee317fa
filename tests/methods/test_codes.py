"""Methods give with rank codes the bits they give with scores, or refuse them."""

import pytest
import torch

from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import SCORES
from ledmerge.methods._guard import Guard, guarded
from ledmerge.ops.rank_codes import STEPS, rank_codes
from methods.harness import ids, merge, merge_in_blocks, methods, noisy_inputs, same_bits, variants

DENSITIES = [[0.0, 26 / STEPS, 1.0], [0.5, 101 / STEPS, 129 / STEPS]]
REFUSED = {
    "led disjoint=winner": "'disjoint: winner'",
    "led select=bottom": "'select: bottom'",
    "led scope=layer": "scope: found 'layer'",
    "led scope=global": "scope: found 'global'",
    "reason_any": "'lowest'",
    "reason_any scope=tensor": "'lowest'",
    "reason_any scope=layer": "'lowest'",
}
"""Variants that ask what codes do not tell, and the option the message names."""

SCORED = [method for method in methods() if method.needs_scores]
CODED = [
    variant for variant in variants() if variant.method in SCORED if variant.method.takes_codes
]


def with_codes(inputs):
    """The same inputs with the codes of their scores."""
    codes = {
        name: torch.stack([rank_codes(row) for row in inputs[name]])
        for name in SCORES
        if name in inputs
    }
    return inputs | codes


@pytest.mark.parametrize("density", DENSITIES, ids=str)
@pytest.mark.parametrize("variant", CODED, ids=str)
def test_codes_give_the_bits_of_scores(variant, density, monkeypatch):
    monkeypatch.setattr("ledmerge.ops.blocks.BLOCK", 1_024)
    method, options = variant.method, variant.options | {"density": density}
    inputs = noisy_inputs(method, 2_977)
    codes = with_codes(inputs)
    if said := REFUSED.get(str(variant)):
        with pytest.raises(RecipeError, match=said):
            merge(method, codes, options)
        with pytest.raises(RecipeError, match=said):
            method.try_options(options, 3, with_codes=True)
        return
    method.try_options(options, 3, with_codes=True)
    expected = merge(method, inputs, options)
    assert same_bits(merge(method, codes, options), expected)
    assert same_bits(merge_in_blocks(method, [codes], options)[0], expected)


def test_highest_bands_of_reason_any_are_told():
    (method,) = (method for method in SCORED if method.name == "reason_any")
    options = {"lowest": (), "density": 0.25, "scope": "tensor"}
    inputs = noisy_inputs(method, 999)
    assert same_bits(merge(method, with_codes(inputs), options), merge(method, inputs, options))


@pytest.mark.parametrize("method", SCORED, ids=ids)
def test_a_method_says_whether_it_takes_codes(method):
    assert method.takes_codes == (method.name != "fisher")
    assert guarded(method, Guard(0, 0.5, "model")).takes_codes == method.takes_codes


def test_a_guard_of_a_method_without_scores_takes_codes():
    (ties,) = (method for method in methods() if method.name == "ties")
    ours = guarded(ties, Guard(1, 0.25, "base"))
    assert ours.takes_codes
    inputs = noisy_inputs(ties, 999)
    scores = (torch.arange(999.0) % 37)[None]
    merged = merge(ours, inputs | {"scores": scores}, {})
    codes = rank_codes(scores[0])[None]
    assert same_bits(merge(ours, inputs | {"scores": codes}, {}), merged)
    with pytest.raises(RecipeError, match=r"density: found 0\.1, "):
        guarded(ties, Guard(1, 0.1, "base")).try_options({}, 3, with_codes=True)
