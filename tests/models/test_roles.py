"""What a tensor is for, by the names of real checkpoints."""

import pytest

from ledmerge.models.roles import is_output_embedding, is_vocabulary, kind_of, layer_of

LAYERS = {
    "model.layers.3.self_attn.q_proj.weight": "model.layers.3",
    "model.layers.12.block_sparse_moe.experts.7.w1.weight": "model.layers.12",
    "transformer.h.0.attn.c_attn.bias": "transformer.h.0",
    "gpt_neox.layers.10.mlp.dense_h_to_4h.weight": "gpt_neox.layers.10",
    "model.norm.weight": "",
    "lm_head.weight": "",
    "h2.weight": "",
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_the_name_up_to_its_first_number(name: str):
    assert layer_of(name) == LAYERS[name]


def test_a_kind_is_the_name_without_its_numbers():
    experts = "model.layers.12.block_sparse_moe.experts.7.w1.weight"
    assert kind_of(experts) == "model.layers.*.block_sparse_moe.experts.*.w1.weight"
    assert kind_of("model.norm.weight") == "model.norm.weight"


def test_vocabularies_are_the_tensors_whose_rows_are_tokens():
    embeddings = ("model.embed_tokens.weight", "transformer.wte.weight", "gpt_neox.embed_in.weight")
    assert all(is_vocabulary(name) and not is_output_embedding(name) for name in embeddings)
    assert is_output_embedding("lm_head.weight")
    assert is_vocabulary("lm_head.weight")
    assert not is_vocabulary("model.layers.0.mlp.up_proj.weight")
