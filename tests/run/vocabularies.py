"""Small models with trained tokenizers, their rows in any order."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from families import read_all, write_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

KINDS = ("bpe", "sentencepiece", "wordpiece", "unigram")
PETS = ["the cat sat on the mat", "a dog and a cat ran home", "a cat ran on"] * 4
SUMS = ["one and two make three", "the sum of three numbers is one", "two numbers"] * 4
EMBEDDING, HEAD, BIAS = "model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"
WIDTH = 8
CONFIG = {
    "hidden_size": WIDTH,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "torch_dtype": "float32",
    "bos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
UNKNOWN, END = "<unk>", "</s>"


def train(kind: str, texts: Sequence[str]) -> Tokenizer:
    """A tokenizer of these texts' words and word pieces."""
    special = [UNKNOWN, END]
    if kind == "bpe":
        made = Tokenizer(models.BPE(unk_token=UNKNOWN))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "sentencepiece":  # its BPE, as Llama and Gemma have it: bytes stand in for letters
        made = Tokenizer(models.BPE(unk_token=UNKNOWN, byte_fallback=True, fuse_unk=True))
        made.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        made.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
            show_progress=False,
            max_token_length=8,
        )
    elif kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=60, special_tokens=special, show_progress=False
        )
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=40, special_tokens=special, unk_token=UNKNOWN, show_progress=False
        )
    made.train_from_iterator(texts, trainer)
    return made


def shuffled(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokens and the same cuts, under other ids."""
    fields = json.loads(tokenizer.to_str())
    draw = torch.Generator().manual_seed(5)
    size = tokenizer.get_vocab_size()
    model = fields["model"]
    inside = len(model["vocab"])  # the library numbers added tokens outside it itself
    place = [*torch.randperm(inside, generator=draw).tolist(), *range(inside, size)]  # old -> new
    if isinstance(model["vocab"], list):
        old = [*model["vocab"]]
        for token_id, entry in enumerate(old):
            model["vocab"][place[token_id]] = entry
        model["unk_id"] = place[model["unk_id"]]
    else:
        model["vocab"] = {token: place[token_id] for token, token_id in model["vocab"].items()}
    for token in fields["added_tokens"]:
        token["id"] = place[token["id"]]
    fields["added_tokens"].sort(key=lambda token: token["id"])
    return Tokenizer.from_str(json.dumps(fields))


def tensors_of(num_rows: int, seed: int) -> dict[str, Tensor]:
    """A Llama of one layer."""
    draw = torch.Generator().manual_seed(seed)
    layer = "model.layers.0."
    shapes = {
        EMBEDDING: (num_rows, WIDTH),
        HEAD: (num_rows, WIDTH),
        "model.norm.weight": (WIDTH,),
        f"{layer}input_layernorm.weight": (WIDTH,),
        f"{layer}post_attention_layernorm.weight": (WIDTH,),
        f"{layer}self_attn.q_proj.weight": (8, WIDTH),
        f"{layer}self_attn.k_proj.weight": (4, WIDTH),
        f"{layer}self_attn.v_proj.weight": (4, WIDTH),
        f"{layer}self_attn.o_proj.weight": (WIDTH, 8),
        f"{layer}mlp.gate_proj.weight": (12, WIDTH),
        f"{layer}mlp.up_proj.weight": (12, WIDTH),
        f"{layer}mlp.down_proj.weight": (WIDTH, 12),
    }
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def write(
    folder: Path, tokenizer: Tokenizer, tensors: dict[str, Tensor] | int, **config: object
) -> Path:
    """A model folder; `tensors` may be the seed of random ones."""
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if isinstance(tensors, int):
        tensors = tensors_of(size, tensors)
    rows = len(tensors[EMBEDDING])
    end = tokenizer.token_to_id(END)
    write_model(folder, tensors, **{**CONFIG, "vocab_size": rows, "eos_token_id": end, **config})
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "unk_token": UNKNOWN}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    return folder


def write_shuffled(folder: Path, model: Path, tensors: dict[str, Tensor] | None = None) -> Path:
    """A model (or other tensors with its tokens) with another order of tokens and rows."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    other = shuffled(tokenizer)
    found = dict(tensors or read_all(model))
    return write(folder, other, reordered(found, ids_of(model), other.get_vocab()))


def reordered(tensors: dict[str, Tensor], old: dict[str, int], new: dict[str, int]) -> dict:
    """Tensors with the rows of tokens where the new ids have them."""
    made = dict(tensors)
    for name in {EMBEDDING, HEAD} & tensors.keys():
        made[name] = tensors[name].clone()
        for token, row in old.items():
            made[name][new[token]] = tensors[name][row]
    return made


def ids_of(folder: Path) -> dict[str, int]:
    """Token -> id, as transformers has it."""
    return AutoTokenizer.from_pretrained(folder).get_vocab()


def rows_of(folder: Path, name: str = EMBEDDING) -> dict[str, Tensor]:
    """Token -> its row, as transformers and safetensors have them."""
    rows = read_all(folder)[name].float()
    return {token: rows[row] for token, row in ids_of(folder).items() if row < len(rows)}


def answer(folder: Path, prompt: str) -> str:
    """What the model goes on with, by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    given = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        made = model.generate(given, do_sample=False, max_new_tokens=12, pad_token_id=0)
    return " ".join(tokenizer.convert_ids_to_tokens(made[0].tolist()))
