"""Tiny random models of several families with a tokenizer, made without the network."""

import json
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from searches import WEIGHTS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vocabularies import PETS, tensors_of, train, write

torch.set_num_threads(1)  # tensors this small only wait for more threads

WORDS = [*"abcdefghijklmnopqrstuvwxyz"]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = {token: index for index, token in enumerate(["<unk>", "</s>", *ALPHABET])}

COMMON = {
    "vocab_size": len(VOCABULARY),
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": None,
}
ROTARY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4}

FAMILIES = {
    "llama": ("LlamaForCausalLM", ROTARY),
    "llama_tied": ("LlamaForCausalLM", {**ROTARY, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", ROTARY),
    "qwen3": ("Qwen3ForCausalLM", {**ROTARY, "tie_word_embeddings": True}),
    "gemma": ("GemmaForCausalLM", {**ROTARY, "tie_word_embeddings": True}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "mixtral": ("MixtralForCausalLM", {**ROTARY, **EXPERTS}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**ROTARY, **EXPERTS, "moe_intermediate_size": 8}),
}


def _build_model(family, seed=0):
    kind = getattr(transformers, FAMILIES[family][0])
    config = kind.config_class(**COMMON, **FAMILIES[family][1])
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases, too, which begin at 1 and 0
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.ndim == 1))
    return model


@pytest.fixture(scope="session")
def build_model():
    """Maps a family (and a seed) to a model whose every parameter is random."""
    return _build_model


@pytest.fixture(scope="session")
def build_double():
    """Maps a family to a model that computes in float64 all through."""

    def build(family):
        model = _build_model(family).double().requires_grad_(False)
        model.config._experts_implementation = "eager"  # the fused one knows no float64
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):  # transformers' own go by float32
                module.forward = partial(_exact_norm, module)
        return model

    return build


def _exact_norm(module, x):
    eps = getattr(module, "variance_epsilon", None) or module.eps
    weight = module.weight + (type(module).__name__ == "GemmaRMSNorm")
    return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


@pytest.fixture(scope="session")
def tokenizer():
    """One token a byte, which transformers leaves as it is for every family."""
    backend = Tokenizer(models.BPE(VOCABULARY, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer):
    """Maps a family (and a seed) to the folder of the model, written once."""
    made = {}

    def folder(family, seed=0):
        if (family, seed) not in made:
            path = tmp_path_factory.mktemp("models") / f"{family}-{seed}"
            _build_model(family, seed).save_pretrained(path)
            tokenizer.save_pretrained(path)
            made[family, seed] = path
        return made[family, seed]

    return folder


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory):
    """24 rows of unequal lengths."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(24):
            prompt, response = (draw.choices(WORDS, k=draw.randint(1, 7)) for _ in range(2))
            row = {"prompt": " ".join(prompt), "response": " ".join(response)}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def damaged_model(model_folder, tmp_path):
    """A model with a weight that is NaN."""
    folder = shutil.copytree(model_folder("llama"), tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def fresh_cache(monkeypatch, tmp_path):
    """The cache is empty, and again so under each other name."""

    def renew(name):
        monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / name))

    renew("cache")
    return renew


@pytest.fixture
def chat(tmp_path: Path) -> list[Path]:
    """A base with padding rows and two experts with a special token of their own in the first of
    them, one in another dtype.
    """
    made = []
    for seed, (name, token) in enumerate((("base", None), ("a", "<a>"), ("b", "<b>"))):
        tokenizer = train("bpe", PETS)
        if token:
            tokenizer.add_tokens([AddedToken(token, special=True, lstrip=True)])
        tensors = tensors_of(tokenizer.get_vocab_size() + 5 - bool(token), seed)
        if name == "a":
            tensors = {key: value.bfloat16() for key, value in tensors.items()}
        made.append(write(tmp_path / name, tokenizer, tensors))
    return made


@pytest.fixture
def write_search(tmp_path, model_folder, rows_file):
    """Writes a recipe, a suite and a search with some keys changed; gives the search's path."""

    def write(recipe=None, **changed):
        base = model_folder("llama")
        said = {
            "merge_method": "task_arithmetic",
            "base_model": str(base),
            "models": [{"model": str(model_folder("llama", seed))} for seed in (1, 2)],
            "dtype": "float32",
            **(recipe or {}),
        }
        suite = {
            "benchmarks": {"rows": {"task": "log_likelihood", "data": str(rows_file)}},
            "template": "none",
        }
        fields = {
            "recipe": "recipe.yaml",
            "suite": "suite.yaml",
            "objective": {"rows.log_likelihood": 1.0},
            "vary": WEIGHTS,
            "trials": 3,
            "sampler": "random",
        }
        for name, what in (
            ("recipe", said),
            ("suite", suite),
            ("search", {**fields, **changed}),
        ):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(what))
        return tmp_path / "search.yaml"

    return write


@pytest.fixture
def write_rows(tmp_path):
    """Writes records as lines of JSON; gives their path."""

    def write(name, records):
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write
