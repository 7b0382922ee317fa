"""Gentle full fine-tunes: few steps, small learning rate, so that the experts can be merged."""

import random
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file
from tasks import Row
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase


def finetune(
    base: Path, rows: list[Row], out: Path, *, steps: int, learning_rate: float, batch: int = 8
) -> None:
    """Trains `base` on the responses of `rows` and saves the result in `out`.

    AdamW without weight decay; the learning rate falls linearly to zero. Batches are drawn by a
    fixed seed, a new order for every pass over the rows.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    random_ = random.Random(0)
    waiting: list[Row] = []
    console = Console(stderr=True)
    quiet = not console.is_terminal
    for _ in track(range(steps), "training", console=console, disable=quiet):
        if len(waiting) < batch:
            waiting = random_.sample(rows, len(rows))
        chosen, waiting = waiting[:batch], waiting[batch:]
        loss = model(**encode(tokenizer, chosen)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)  # kept memory is cheaper than new
        schedule.step()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def encode(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> dict[str, torch.Tensor]:
    """A right-padded batch in the chat template whose labels are the response tokens only."""
    examples = []
    for row in rows:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": row.prompt}], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer.encode(asked, add_special_tokens=False)
        response = tokenizer.encode(row.response, add_special_tokens=False)
        examples.append((prompt, response + [tokenizer.eos_token_id] * row.ends))
    length = max(len(prompt) + len(response) for prompt, response in examples)
    input_ids = torch.full((len(rows), length), tokenizer.pad_token_id)  # (B, T)
    labels = torch.full_like(input_ids, -100)
    attention_mask = torch.zeros_like(input_ids)
    for i, (prompt, response) in enumerate(examples):
        end = len(prompt) + len(response)
        input_ids[i, :end] = torch.tensor(prompt + response)
        labels[i, len(prompt) : end] = torch.tensor(response)
        attention_mask[i, :end] = 1
    return {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}


def cosine(base: Path, first: Path, second: Path) -> float:
    """The cosine between two experts' changes of the base, over all weights at once."""
    start, *tuned = (load_file(folder / "model.safetensors") for folder in (base, first, second))
    changes = [torch.cat([(model[n] - start[n]).flatten() for n in start]) for model in tuned]
    return torch.cosine_similarity(*changes, dim=0).item()
