"""Sums of inputs against NumPy, from the hidden states that the model itself reports."""

import numpy as np
import pytest
import torch

from ledmerge.data.samples import Sample
from ledmerge.errors import RecipeError
from ledmerge.models.inputs import input_products, linear_weights, squared_inputs
from ledmerge.models.loss import make_batch

SAMPLES = [
    Sample((3, 4, 5, 6, 7), (False, False, True, True, True), "row 1"),
    Sample((8, 5, 5), (False, True, True), "row 2"),
    Sample((9, 10, 3, 5), (False, False, False, True), "row 3"),
]


def found_sums(model, batch):
    parameters = dict(model.named_parameters())
    sums = {name: torch.zeros_like(p) for name, p in parameters.items()}
    with squared_inputs(model, parameters, lambda name, s: sums[name].add_(s)) as run:
        for start in range(0, len(SAMPLES), batch):
            run(make_batch(SAMPLES[start : start + batch], torch.device("cpu")))
    return {name: total.numpy() for name, total in sums.items()}


def hidden_states(model, of="response"):
    """The input of every layer and the last output, (layer, N, d), at response tokens or at all."""
    states = []
    for sample in SAMPLES:
        with torch.no_grad():
            output = model(torch.tensor([sample.ids]), output_hidden_states=True)
        counted = list(sample.is_response) if of == "response" else slice(None)
        states.append(torch.stack(output.hidden_states)[:, 0, counted].numpy())
    return np.concatenate(states, axis=1)


def response_ids():
    return [i for s in SAMPLES for i, counts in zip(s.ids, s.is_response, strict=True) if counts]


def columns(features, shape):
    """Squares of the features, summed over tokens, as the weight (out, in) multiplies them."""
    return np.broadcast_to((features.astype(np.float64) ** 2).sum(0), shape)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_llama_like_sums(build_model, batch):
    model = build_model("qwen2")
    found, states = found_sums(model, batch), hidden_states(model)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    counts = np.bincount(response_ids(), minlength=model.config.vocab_size)
    expected = {"model.embed_tokens.weight": np.tile(counts[:, None], (1, 16))}
    for layer in (0, 1):
        x, prefix = states[layer], f"model.layers.{layer}"
        norm = f"{prefix}.input_layernorm.weight"
        x_hat = x / np.sqrt((x**2).mean(-1, keepdims=True) + model.config.rms_norm_eps)
        expected[norm] = (x_hat**2).sum(0)
        for projection in ("q_proj", "k_proj", "v_proj"):
            name = f"{prefix}.self_attn.{projection}"
            features = x_hat * weights[norm]
            expected[f"{name}.weight"] = columns(features, weights[f"{name}.weight"].shape)
            expected[f"{name}.bias"] = np.full(weights[f"{name}.bias"].shape, len(x))
    expected["lm_head.weight"] = columns(states[-1], weights["lm_head.weight"].shape)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, err_msg=name)
    assert all(total.any() for total in found.values())


@pytest.mark.parametrize("batch", [1, 3])
def test_gpt2_sums(build_model, batch):
    model = build_model("gpt2")
    found, states = found_sums(model, batch), hidden_states(model)
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    x, prefix = states[0], "transformer.h.0"
    centred = x - x.mean(-1, keepdims=True)
    x_hat = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    features = x_hat * weights[f"{prefix}.ln_1.weight"] + weights[f"{prefix}.ln_1.bias"]
    counts = np.bincount(response_ids(), minlength=model.config.vocab_size)
    places = [t for s in SAMPLES for t, counts in enumerate(s.is_response) if counts]
    expected = {
        f"{prefix}.ln_1.weight": (x_hat**2).sum(0),
        f"{prefix}.ln_1.bias": np.full(16, len(x)),
        f"{prefix}.attn.c_attn.weight": columns(features, (48, 16)).T,
        f"{prefix}.attn.c_attn.bias": np.full(48, len(x)),
        "transformer.wpe.weight": np.tile(np.bincount(places, minlength=64)[:, None], (1, 16)),
        # Tied: looked up as the input embedding, multiplied by the last state as the output.
        "transformer.wte.weight": counts[:, None] + columns(states[-1], (len(counts), 16)),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, err_msg=name)


def test_gemma_norms_multiply_the_same_feature(build_model):
    model = build_model("gemma")
    name = "model.layers.0.input_layernorm.weight"
    x = hidden_states(model)[0]
    x_hat = x / np.sqrt((x**2).mean(-1, keepdims=True) + model.config.rms_norm_eps)
    np.testing.assert_allclose(found_sums(model, 1)[name], (x_hat**2).sum(0), rtol=1e-4)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_fused_experts_are_refused(build_model, family):
    with pytest.raises(RecipeError, match=r"mlp\.(gate|experts).*another score than wanda"):
        found_sums(build_model(family), 1)


def test_a_weight_that_is_used_without_its_module_is_refused(build_model, monkeypatch):
    """No hook sees it, and sums of 0 would say that it multiplies nothing (Lfm3's convolution)."""
    model = build_model("llama").requires_grad_(False)
    mlp = model.model.layers[1].mlp

    def forward(x):
        return mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)) * (x @ mlp.up_proj.weight.T))

    monkeypatch.setattr(mlp, "forward", forward)
    for sums in (found_sums, found_products):
        with pytest.raises(RecipeError, match=r"layers.1.mlp.up_proj.*another score than wanda"):
            sums(model, 1)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_weight_that_is_not_used_has_sums_of_0(build_model, monkeypatch):
    model = build_model("llama").requires_grad_(False)
    expected = found_sums(model, 1)
    monkeypatch.setattr(model.model.layers[1].mlp, "forward", lambda x: 0 * x)
    found = found_sums(model, 1)
    for name, total in found.items():
        is_used = "layers.1.mlp" not in name
        assert bool(total.any()) == is_used, name
        if is_used and "layers.1" in name:
            np.testing.assert_array_equal(total, expected[name])


def found_products(model, batch):
    parameters = dict(model.named_parameters())
    kept = {name: parameters[name] for name in linear_weights(model, parameters)}
    sums = {name: torch.zeros([p.shape[1]] * 2) for name, p in kept.items()}
    with input_products(model, kept, lambda name, s: sums[name].add_(s)) as run:
        for start in range(0, len(SAMPLES), batch):
            run(make_batch(SAMPLES[start : start + batch], torch.device("cpu")))
    return {name: total.numpy() for name, total in sums.items()}


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_products_of_inputs_are_over_all_tokens(build_model, batch):
    model = build_model("qwen2")
    found, states = found_products(model, batch), hidden_states(model, of="all")
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    projections = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert {name.split(".")[-2] for name in found} == {*projections, "lm_head"}
    expected = {"lm_head.weight": states[-1]}
    for layer in (0, 1):
        x, prefix = states[layer], f"model.layers.{layer}"
        x_hat = x / np.sqrt((x**2).mean(-1, keepdims=True) + model.config.rms_norm_eps)
        for projection in projections[:3]:
            name = f"{prefix}.self_attn.{projection}.weight"
            expected[name] = x_hat * weights[f"{prefix}.input_layernorm.weight"]
    for name, features in expected.items():
        wide = features.astype(np.float64)
        np.testing.assert_allclose(found[name], wide.T @ wide, rtol=1e-4, atol=1e-4, err_msg=name)
    assert found["model.layers.0.mlp.down_proj.weight"].shape == (24, 24)


def test_an_embedding_has_no_gram_matrix_tied_or_not(build_model):
    model = build_model("llama_tied")
    found = linear_weights(model, dict(model.named_parameters()))
    assert "model.embed_tokens.weight" not in found
    assert len(found) == 2 * 7


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "Conv1D"), ("mixtral", "Mixtral")])
def test_transposed_and_fused_layers_have_no_gram_matrix(build_model, family, kind):
    with pytest.raises(RecipeError, match=rf"what a {kind}\w* multiplies .* wanda, obim or gram"):
        found_products(build_model(family), 1)
