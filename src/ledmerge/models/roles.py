"""What a tensor is for, read off its name."""

import re

_NUMBER = re.compile(r"\.(\d+)(?=\.)")

OUTPUT_EMBEDDINGS = ("lm_head.weight", "embed_out.weight", "output.weight")
"""Names that repeat the input embedding where the two are tied."""

INPUT_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
    "shared.weight",  # of encoder and decoder
    "backbone.embeddings.weight",  # Mamba
)

_INPUT_ENDINGS = tuple(f".{name}" for name in INPUT_EMBEDDINGS)

_CONV1D = ("c_attn.weight", "q_attn.weight", "c_proj.weight", "c_fc.weight")
_TOKEN_BIASES = (
    "lm_head.bias",
    "embed_out.bias",
    "output.bias",
    "cls.predictions.bias",
    "cls.predictions.decoder.bias",
)
"""What is added to the logits."""

RECOMPUTED = (".rotary_emb.inv_freq",)
"""Endings of buffers that old checkpoints carry and every loader computes again."""

COUNTERS = (".num_batches_tracked",)
"""Endings of integers that training counts up; they need not agree, and nobody reads them later."""


def layer_of(name: str) -> str:
    """The layer of a tensor: its name up to the first number ("model.layers.3"), else ""."""
    number = _NUMBER.search(name)
    return name[: number.end()] if number else ""


def kind_of(name: str) -> str:
    """The name without its numbers: "model.layers.*.mlp.up_proj.weight"."""
    return _NUMBER.sub(".*", name)


def is_output_embedding(name: str) -> bool:
    """Whether the tensor turns hidden states into logits."""
    return name in OUTPUT_EMBEDDINGS


def is_before_layers(name: str) -> bool:
    """Whether a tensor that belongs to no layer is used before the first: embeddings of tokens and
    places, and their norms.
    """
    is_embedding = any(part in name for part in ("emb", "wte", "wpe"))
    return is_embedding and not is_output_embedding(name)


def is_input_embedding(name: str) -> bool:
    """Whether the tensor holds what tokens are looked up as."""
    return f".{name}".endswith(_INPUT_ENDINGS)


def is_vocabulary(name: str) -> bool:
    """Whether the tensor's rows are tokens."""
    return is_output_embedding(name) or is_input_embedding(name)


def stores_input_first(name: str, model_type: str) -> bool:
    """Whether a matrix is stored (in, out), as GPT-2's `Conv1D` does, where layers have (out, in).

    Read off the code of transformers: no other causal language model there has such layers.
    """
    return model_type in ("gpt2", "openai-gpt") and name.endswith(_CONV1D)


def has_token_rows(name: str) -> bool:
    """Whether the tensor has a row, or an entry, for each token: embeddings and what is added to
    logits.
    """
    decoders = ("cls.predictions.decoder.weight", "lm_head.decoder.weight", "lm_head.decoder.bias")
    return is_vocabulary(name) or name in _TOKEN_BIASES or name in decoders


def may_have_token_rows(name: str) -> bool:
    """Whether a tensor of as many entries as there are tokens may well have one for each, though
    its name is not known: those outside the layers that do not tell of places.
    """
    is_of_places = any(part in name for part in ("wpe", "pos"))
    return not (has_token_rows(name) or layer_of(name) or is_of_places)
