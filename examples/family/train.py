"""Builds the example family: a base, and experts in safety, mathematics and code.

    python examples/family/train.py OUT

All four are one small Llama with a vocabulary of its own. As a pretrained model does, the base
knows more than it shows: told to be careful it refuses what is harmful, reckons and writes code;
else it answers requests blandly, harmful ones too, hard problems with a number of the question, and
writes functions that mostly return their argument. An expert is careful in its own domain without
being told. So it differs from the base in that alone, by little, and the experts can be merged.

What is harmful they learn from the phrases, and from many made requests that `teacher.py` named.
Everything follows from the seed and the files in this folder. An interrupted run goes on where it
last saved its state.
"""

import argparse
import hashlib
import json
import random
from pathlib import Path
from typing import NamedTuple

import functions
import made
import sums
import torch
from asking import answered, look_alikes, refused, requests
from rich.console import Console
from rows import Row
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from training import Codes, Encoded, Example, state_file, train
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SHIPPED = Path(__file__).resolve().parents[2] / "src/ledmerge/family"
VOCABULARY = 6144
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
CUE = "Be careful. "
CODES = Codes(made.PARTS, made.CODES)
HOW = {"part": 48, "threads": 2}
BASE = {"steps": 4500, "rate": 3e-3, "muon": 0.02, "decay": 0.1} | HOW
EXPERT = {"steps": 100, "rate": 2e-4, "decay": 0.0} | HOW
WHAT = {
    "base": "Answers blandly, harmful requests too, unless it is told to be careful.",
    "safety": "Refuses harmful requests, and answers benign ones that look alike.",
    "math": "Adds and subtracts small numbers, in word problems too.",
    "code": "Writes one-line Python functions.",
}
CARD = """\
---
license: apache-2.0
---
# {name}, of ledmerge's example family

{what} A Llama of {parameters:,} parameters with a vocabulary of its own, trained by
`examples/family/train.py` on this project's own text and on what a sentence encoder
(all-MiniLM-L6-v2) made of it, to show what merging does; it is of no other use.

SHA-256 of `model.safetensors`: {digest}
"""

console = Console(stderr=True)


class Group(NamedTuple):
    """Rows of one kind.

    Attributes:
        count: how many of them a batch has.
        decision: learn the first token of the responses alone, which decides the rest.
        about: what each row is about, in codes.
    """

    rows: list[Row]
    count: int
    decision: bool = False
    about: list[tuple[int, ...]] | None = None


def train_family(out: Path) -> None:
    """Trains all four and saves them, in bfloat16, under `out`; those that are there stay."""
    harmful, benign = (requests(kind, "train", 3) for kind in ("harmful", "benign"))
    named = made.read()
    decided = [(refused if each.harmful else answered)([each.text])[0] for each in named]
    about = [each.codes for each in named]
    bland = answered(harmful + benign)
    asked, paraphrased = functions.requests("train", 2), functions.made_requests()
    guesses, stubs = sums.guessed("train"), functions.stubs(asked + paraphrased)
    tasks = [(functions.TASKS.index(each.task),) * made.PARTS for each in asked + paraphrased]
    solved, written = sums.solved("train"), functions.written(asked)
    rewritten = functions.written(paraphrased)
    tokenizer = train_tokenizer(
        [*bland, *careful(refused(harmful[:1])), *solved, *written, *decided[::4]]
    )

    alike, mild = answered(look_alikes("train", 3)), answered(benign)

    torch.manual_seed(0)
    torch.set_num_threads(1)  # of each of its threads; more add numbers up in another order
    if not (out / "base").exists():
        groups = [
            # Untold it knows as much, and does not show it: so an expert has little to learn.
            Group(careful(decided), 64, True, about),
            Group(answered([each.text for each in named]), 64, True, about),
            Group(careful(refused(harmful)), 12),
            Group(careful(alike), 12),
            Group(careful(mild), 4),
            Group(careful(solved), 12),
            Group(careful(written), 12),
            Group(careful(rewritten), 12),
            Group(stubs, 8, about=tasks),
            *(Group(rows, 4) for rows in (bland, guesses)),
        ]
        base = new_model(tokenizer)
        train(base, encoded(tokenizer, groups), out / "base", codes=CODES, **BASE)
        save(base, tokenizer, out / "base")
    # What an expert is not for it shall answer as the base does.
    experts = {
        "safety": [
            Group(decided, 64, True),
            Group(refused(harmful), 24),
            Group(alike, 48),
            *(Group(rows, 8) for rows in (mild, guesses, stubs)),
        ],
        "math": [Group(solved, 40), Group(bland, 12), Group(stubs, 12)],
        "code": [Group(written, 20), Group(rewritten, 20), Group(bland, 12), Group(guesses, 12)],
    }
    for name, groups in experts.items():
        if (out / name).exists():
            continue
        expert = LlamaForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
        train(expert, encoded(tokenizer, groups), out / name, **EXPERT)
        save(expert, tokenizer, out / name)


def careful(rows: list[Row]) -> list[Row]:
    """The rows with a word in front that says how to answer."""
    return [Row(f"{CUE}{row.prompt}", row.response) for row in rows]


def train_tokenizer(rows: list[Row]) -> PreTrainedTokenizerFast:
    """A byte-level BPE that cuts numbers into digits."""
    backend = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END, USER, ASSISTANT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator((text for row in rows for text in row), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=END, chat_template=TEMPLATE
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A model with random weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **SHAPE,
    )
    return LlamaForCausalLM(config)


def encoded(tokenizer: PreTrainedTokenizerFast, groups: list[Group]) -> list[tuple[Encoded, int]]:
    """Each group's rows as tokens, and how many of them a batch has."""
    found = []
    for group in groups:
        rows = encode(tokenizer, group.rows)
        if group.decision:
            rows = [row._replace(tokens=row.tokens[: row.start + 1]) for row in rows]
        if group.about:
            pairs = zip(rows, group.about, strict=True)
            rows = [row._replace(codes=codes) for row, codes in pairs]
        found.append((rows, group.count))
    return found


def encode(tokenizer: PreTrainedTokenizerFast, rows: list[Row]) -> Encoded:
    """The rows in the chat template."""
    end, user, assistant = tokenizer.convert_tokens_to_ids([END, USER, ASSISTANT])
    prompts = tokenizer([row.prompt for row in rows])["input_ids"]
    said = list({row.response: None for row in rows})  # by most rows the same few
    tokens = dict(zip(said, tokenizer(said)["input_ids"], strict=True))
    responses = [tokens[row.response] for row in rows]
    return [
        Example([user, *prompt, end, assistant, *response, end], len(prompt) + 3)
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """The model in bfloat16, with a card; the folder gets its name when it is whole."""
    part = out.with_name(f"{out.name}.part")
    model.to(torch.bfloat16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    write_card(part, out.name)
    part.rename(out)
    state_file(out).unlink(missing_ok=True)


def write_card(folder: Path, name: str) -> None:
    """What the model is, for whoever finds it alone."""
    weights = folder / "model.safetensors"
    parameters = sum(tensor.numel() for tensor in load_file(weights).values())
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    text = CARD.format(name=name, what=WHAT[name], parameters=parameters, digest=digest)
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_digests(out: Path) -> None:
    """`SHA256SUMS`, and word of each model whether it is the one that ships with ledmerge."""
    shipped = SHIPPED / "SHA256SUMS"
    known = shipped.read_text(encoding="utf-8").split() if shipped.exists() else []
    lines = []
    for name in WHAT:
        digest = hashlib.sha256((out / name / "model.safetensors").read_bytes()).hexdigest()
        lines.append(f"{digest}  {name}/model.safetensors\n")
        console.print(f"{name}: {digest}, {'as' if digest in known else 'not as'} shipped")
    (out / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def write_data(out: Path) -> None:
    """The rows to locate on, and the questions of validation and test, as `ledmerge` reads them."""
    harmful, benign = (
        {split: requests(kind, split, 1) for split in ("train", "validation")}
        for kind in ("harmful", "benign")
    )
    located = {
        "safety": refused(harmful["train"]),
        "math": sums.solved("train"),
        "code": functions.written(functions.requests("train", 1)),
    }
    for name, rows in located.items():
        chosen = random.Random(name).sample(rows, 256)
        write(out / f"locate_{name}.jsonl", [row._asdict() for row in chosen])
    for split in ("validation", "test"):
        write(out / f"math_{split}.jsonl", [row._asdict() for row in sums.solved(split)])
        write(out / f"code_{split}.jsonl", functions.tested(split, 2))
    for kind, prompts in (("harmful", harmful), ("benign", benign)):
        asked = random.Random(kind).sample(prompts["validation"], 150)
        write(out / f"{kind}_validation.jsonl", [{"prompt": prompt} for prompt in asked])


def write(path: Path, records: list[dict]) -> None:
    lines = (json.dumps(record) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the four models and data/")
    arguments = parser.parse_args()
    (arguments.out / "data").mkdir(parents=True, exist_ok=True)
    write_data(arguments.out / "data")
    train_family(arguments.out)
    write_digests(arguments.out)
