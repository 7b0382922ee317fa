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

_TIED = """
bart bert bert-generation big_bird bigbird_pegasus biogpt blenderbot blenderbot-small bloom
camembert cohere cohere2 cohere2_moe cpmant ctrl data2vec-text electra ernie ernie4_5
ernie4_5_moe falcon falcon_mamba gemma gemma2 gemma3_text gemma3n_text gemma4_text gpt-sw3
gpt2 gpt_bigcode gpt_neo gpt_neox_japanese jetmoe lfm2 lfm2_moe mamba marian mbart
megatron-bert minicpm3 mpt modernbert-decoder mvp openai-gpt opt pegasus plbart prophetnet
recurrent_gemma roberta roberta-prelayernorm roc_bert roformer smollm3 starcoder2 trocr
vaultgemma whisper xglm xlm xlm-roberta xlm-roberta-xl xlnet xmod youtu zamba zamba2
"""
TIED_BY_DEFAULT = frozenset(_TIED.split())
"""Kinds of models whose embeddings are tied where the config does not say, as transformers has it:
configs that older versions wrote leave out what is the default."""

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
