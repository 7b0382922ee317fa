"""Stacks of layers, by the names that families of models give their tensors."""

import pytest

from ledmerge.models.layers import depths, split_layer, stacks

NAMES = {
    "llama": ("model.embed_tokens.weight", "model.layers", "model.norm.weight", "lm_head.weight"),
    "gpt2": ("wpe.weight", "h", "ln_f.weight", "ln_f.bias"),
    "neox": ("gpt_neox.embed_in.weight", "gpt_neox.layers", "gpt_neox.final_layer_norm.weight",
             "embed_out.weight"),
    "bloom": ("word_embeddings_layernorm.weight", "transformer.h", "ln_f.weight", "lm_head.weight"),
}  # fmt: skip


@pytest.mark.parametrize("family", NAMES)
def test_every_tensor_has_its_depth(family: str):
    before, stack, *after = NAMES[family]
    layers = {f"{stack}.{number}.mlp.{number}.weight": number / 4 for number in range(5)}
    assert depths([before, *layers, *after]) == {before: 0.0, **layers, **dict.fromkeys(after, 1.0)}


def test_two_stacks_are_counted_apart():
    names = ["vision.blocks.0.w", "vision.blocks.2.w", "model.layers.0.w", "model.layers.1.w"]
    assert stacks(names) == {"vision.blocks": 3, "model.layers": 2}
    assert depths(names) == dict(zip(names, [0.0, 1.0, 0.0, 1.0], strict=True))


def test_a_stack_of_one_lies_at_its_end():
    assert depths(["model.layers.0.w"]) == {"model.layers.0.w": 1.0}


def test_the_first_number_is_the_layer():
    assert split_layer("model.layers.3.experts.7.w") == ("model.layers", 3)
    assert split_layer("model.norm.weight") is None
    assert split_layer("h.0.attn") == ("h", 0)
