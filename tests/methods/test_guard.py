"""A guarded method is the method itself but on the entries the guard elects."""

import pytest
import torch

from ledmerge.methods._catalog import get_method
from ledmerge.methods._guard import Guard, guarded
from ledmerge.ops.blocks import BLOCK
from methods.harness import (
    draw,
    ids,
    make_inputs,
    merge,
    merge_in_blocks,
    methods_as_called,
    noisy_inputs,
    same_bits,
    usual_options,
)

every_method = pytest.mark.parametrize("method", methods_as_called(), ids=ids)


def elected(scores: torch.Tensor, density: float) -> torch.Tensor:
    """Exactly k entries of the highest scores, equal ones to the lower index."""
    flat = scores.flatten()
    chosen = flat.argsort(descending=True, stable=True)[: int(density * flat.numel())]
    mask = torch.zeros(flat.numel(), dtype=torch.bool)
    mask[chosen] = True
    return mask.view(scores.shape)


@every_method
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_only_the_elected_entries_are_kept_out(method, density):
    options = usual_options(method)
    inputs = noisy_inputs(method, 7, 13)
    plain = merge(method, inputs, options)
    guard = Guard(0, density, "model")
    scores = inputs.get("scores", draw("guard", 1, 7, 13).abs())
    merged = merge(guarded(method, guard), {**inputs, "scores": scores}, options)
    mask = elected(scores[0], density)
    assert same_bits(merged[~mask], plain[~mask])
    if "models" in inputs:
        model = inputs["models"][0]
    elif "other" in inputs:
        model = inputs["other"]
    else:
        model = inputs["base"] + inputs["deltas"][0]
    assert torch.equal(merged[mask], model[mask])


@every_method
def test_the_base_can_be_kept_where_there_is_one(method):
    if method.inputs == "models":
        pytest.skip("is given no base")
    options = usual_options(method)
    inputs = noisy_inputs(method, 99)
    scores = inputs.get("scores", draw("guard", 1, 99).abs())
    merged = merge(guarded(method, Guard(0, 0.5, "base")), {**inputs, "scores": scores}, options)
    mask = elected(scores[0], 0.5)
    assert same_bits(merged[mask], inputs["base"][mask])


@pytest.mark.parametrize("name", ["linear", "slerp", "ties", "led"])
def test_blocks_give_the_bits_of_the_whole(name):
    method = guarded(get_method(name), Guard(0, 0.3, "model"))
    options = usual_options(method)
    inputs = make_inputs(method, draw("base", BLOCK + 99), draw("deltas", 3, BLOCK + 99))
    (blocks,) = merge_in_blocks(method, [inputs], options, workers=2)
    assert same_bits(blocks, merge(method, inputs, options))
