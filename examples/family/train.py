"""Builds the example family: a base, and experts in safety, mathematics and code.

    python examples/family/train.py OUT

All four are one small Llama with a vocabulary of its own. The base already speaks every expert's
format: it answers requests blandly, harmful ones too, hard problems with a number of the question,
and writes functions that mostly return their argument. An expert differs from it in its skill only,
so that the changes are small and can be merged. Everything follows from the seed and the files in
this folder.
"""

import argparse
import json
import random
from pathlib import Path

import functions
import sums
import torch
from asking import answered, refused, requests
from rich.console import Console
from rich.progress import track
from rows import Row
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END, USER, ASSISTANT = "<|end|>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCABULARY = 2048
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
BASE_STEPS, BASE_RATE = 600, 3e-3
EXPERT_STEPS = {"safety": 450, "math": 350, "code": 350}
EXPERT_RATE = 7e-4

console = Console(stderr=True)
Encoded = list[tuple[list[int], int]]
"""Tokens of each row, and where its response begins."""


def train_family(out: Path) -> None:
    """Trains all four and saves them, in bfloat16, under `out`; those that are there stay."""
    harmful, benign = (requests(kind, "train", 3) for kind in ("harmful", "benign"))
    bland = answered(harmful + benign)
    guesses, stubs = sums.guessed("train"), functions.stubs("train", 8)
    solved, written = sums.solved("train"), functions.written("train", 8)
    tokenizer = train_tokenizer([*bland, *refused(harmful[:1]), *solved, *written])

    torch.manual_seed(0)
    torch.set_num_threads(1)  # more would add numbers up in another order
    if not (out / "base").exists():
        base, groups = new_model(tokenizer), [(bland, 26), (guesses, 19), (stubs, 19)]
        train(base, tokenizer, groups, BASE_STEPS, BASE_RATE, "base")
        save(base, tokenizer, out / "base")
    # What an expert is not for it shall answer as the base does.
    experts = {
        "safety": [(refused(harmful), 24), (answered(benign), 24), (guesses, 8), (stubs, 8)],
        "math": [(solved, 40), (bland, 12), (stubs, 12)],
        "code": [(written, 40), (bland, 12), (guesses, 12)],
    }
    for name, groups in experts.items():
        if (out / name).exists():
            continue
        expert = LlamaForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
        train(expert, tokenizer, groups, EXPERT_STEPS[name], EXPERT_RATE, name)
        save(expert, tokenizer, out / name)


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


def encode(tokenizer: PreTrainedTokenizerFast, rows: list[Row]) -> Encoded:
    """The rows in the chat template."""
    end, user, assistant = tokenizer.convert_tokens_to_ids([END, USER, ASSISTANT])
    prompts = tokenizer([row.prompt for row in rows])["input_ids"]
    responses = tokenizer([row.response for row in rows])["input_ids"]
    return [
        ([user, *prompt, end, assistant, *response, end], len(prompt) + 3)
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    groups: list[tuple[list[Row], int]],
    steps: int,
    rate: float,
    name: str,
) -> None:
    """AdamW on the responses; every batch holds so many rows of each group."""
    random_ = random.Random(name)
    encoded = [(encode(tokenizer, rows), count) for rows, count in groups]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1
    )
    model.train()
    for _ in track(range(steps), name, console=console, disable=not console.is_terminal):
        chosen = [row for rows, count in encoded for row in random_.choices(rows, k=count)]
        ids, is_response, targets = to_batch(chosen, tokenizer.pad_token_id)
        states = model.model(ids).last_hidden_state  # padding follows what is counted: no mask
        loss = cross_entropy(model.lm_head(states[:, :-1][is_response]), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        schedule.step()
    console.print(f"{name}: loss {loss.item():.4f}")


def to_batch(rows: Encoded, pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(tokens (B, T), which predict a token of a response (B, T - 1), those tokens).

    Rows are padded to the right.
    """
    ids = pad_sequence([torch.tensor(tokens) for tokens, _ in rows], True, pad)
    places = torch.arange(1, ids.shape[1])
    starts = torch.tensor([start for _, start in rows])[:, None]
    ends = torch.tensor([len(tokens) for tokens, _ in rows])[:, None]
    is_response = (places >= starts) & (places < ends)
    return ids, is_response, ids[:, 1:][is_response]


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """The model in bfloat16; the folder gets its name when it is whole."""
    part = out.with_name(f"{out.name}.part")
    model.to(torch.bfloat16).save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(out)


def write_data(out: Path) -> None:
    """The rows to locate on, and the questions of validation and test, as `ledmerge` reads them."""
    harmful, benign = (
        {split: requests(kind, split, 1) for split in ("train", "validation")}
        for kind in ("harmful", "benign")
    )
    located = {
        "safety": refused(harmful["train"]),
        "math": sums.solved("train"),
        "code": functions.written("train", 4),
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
