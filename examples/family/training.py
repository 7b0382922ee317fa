"""Training on the responses of rows that can be interrupted at any moment."""

import random
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

PART = 16
SAVED_EVERY = 100

console = Console(stderr=True)
Encoded = list[tuple[list[int], int]]
"""Tokens of each row, and where its response begins."""


def train(
    model: PreTrainedModel,
    groups: list[tuple[Encoded, int]],
    out: Path,
    *,
    steps: int,
    rate: float,
    decay: float,
    saved_every: int = SAVED_EVERY,
    part: int = PART,
) -> None:
    """AdamW on the responses; every batch holds so many rows of each group, and all rows count
    alike, however long.

    The state is saved in `state_file(out)` now and then, and taken up from there; whoever saves
    the model removes it. Batches are drawn by the name of `out`.

    Args:
        part: rows of like length that go through the model together; the sums are the same.
    """
    random_ = random.Random(out.name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1
    )
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    file = state_file(out)
    done = load_state(parts, file) if file.exists() else 0
    model.train()
    for step in track(range(steps), out.name, console=console, disable=not console.is_terminal):
        chosen = [row for rows, count in groups for row in random_.choices(rows, k=count)]
        if step < done:
            continue
        loss = backward(model, chosen, part)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        schedule.step()
        if (step + 1) % saved_every == 0:
            save_state(parts, step + 1, file)
            console.print(f"{out.name}: step {step + 1} of {steps}, loss {loss:.4f}")


def state_file(out: Path) -> Path:
    """Where an interrupted training of the model `out` goes on from."""
    return out.with_name(f"{out.name}.state")


def backward(model: PreTrainedModel, rows: Encoded, part: int = PART) -> float:
    """The mean over rows of the mean loss of a row's response, its gradients added to the model's.

    Rows of like length go together: they need little padding, and the sums are the same.
    """
    rows = sorted(rows, key=lambda row: len(row[0]))
    total = 0.0
    for start in range(0, len(rows), part):
        ids, is_response, targets, shares = (
            each.to(model.device) for each in to_batch(rows[start : start + part])
        )
        states = model.model(ids, use_cache=False).last_hidden_state  # padding comes last: no mask
        losses = cross_entropy(
            model.lm_head(states[:, :-1][is_response]), targets, reduction="none"
        )
        loss = losses @ shares / len(rows)
        loss.backward()
        total += loss.item()
    return total


def to_batch(
    rows: Encoded,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(tokens (B, T), which predict a token of a response (B, T - 1), those tokens, their shares of
    their responses).

    Rows are padded to the right, with token 0: nothing that counts comes after it.
    """
    ids = pad_sequence([torch.tensor(tokens) for tokens, _ in rows], True)
    places = torch.arange(1, ids.shape[1])
    starts = torch.tensor([start for _, start in rows])[:, None]
    ends = torch.tensor([len(tokens) for tokens, _ in rows])[:, None]
    is_response = (places >= starts) & (places < ends)
    shares = (1 / (ends - starts)).expand(is_response.shape)[is_response]
    return ids, is_response, ids[:, 1:][is_response], shares


def save_state(parts: dict[str, Any], step: int, file: Path) -> None:
    """Everything that training goes on from; an interruption leaves the state before."""
    new = file.with_name(f"{file.name}.part")
    torch.save({"step": step, **{key: part.state_dict() for key, part in parts.items()}}, new)
    new.replace(file)


def load_state(parts: dict[str, Any], file: Path) -> int:
    """The number of steps that are done."""
    state = torch.load(file, weights_only=True, map_location="cpu")
    for key, part in parts.items():
        part.load_state_dict(state[key])
    return state["step"]
