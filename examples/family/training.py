"""Training on the responses of rows that can be interrupted at any moment."""

import copy
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

PART = 16
SAVED_EVERY = 100
CODE_SHARE = 0.1
"""Of the loss of a code beside that of a response."""

console = Console(stderr=True)


class Example(NamedTuple):
    """A row as tokens.

    Attributes:
        start: where the response begins, behind two tokens that end the prompt.
        codes: what the prompt is about, if that is known: numbers below `Codes.each`.
    """

    tokens: list[int]
    start: int
    codes: tuple[int, ...] = ()


class Codes(NamedTuple):
    """Of what shape the rows' codes are: so many parts, each a number below `each`."""

    parts: int
    each: int


Encoded = list[Example]


class Learner(nn.Module):
    """A model, and a head that tells codes where prompts end; it is thrown away in the end."""

    def __init__(self, model: PreTrainedModel, codes: Codes | None):
        super().__init__()
        self.model = model
        self.codes = codes
        if codes:
            self.head = nn.Linear(model.config.hidden_size, codes.parts * codes.each, bias=False)

    def forward(self, batch: Encoded) -> Tensor:
        """The sum of the rows' losses, each the mean over the tokens of its response."""
        ids, is_response, targets, shares = (each.to(self.model.device) for each in to_batch(batch))
        # Padding comes last: no mask.
        states = self.model.model(ids, use_cache=False).last_hidden_state
        logits = self.model.lm_head(states[:, :-1][is_response])
        loss = cross_entropy(logits, targets, reduction="none") @ shares
        told = [place for place, row in enumerate(batch) if row.codes]
        if self.codes and told:
            ends = states[told, [batch[place].start - 2 for place in told]]
            logits = self.head(ends).unflatten(1, self.codes).flatten(0, 1)
            codes = torch.tensor([code for place in told for code in batch[place].codes])
            loss += CODE_SHARE * cross_entropy(logits, codes, reduction="sum")
        return loss


def train(
    model: PreTrainedModel,
    groups: list[tuple[Encoded, int]],
    out: Path,
    *,
    steps: int,
    rate: float,
    decay: float,
    muon: float = 0.0,
    codes: Codes | None = None,
    saved_every: int = SAVED_EVERY,
    part: int = PART,
    threads: int = 1,
) -> None:
    """Learns the responses; every batch holds so many rows of each group, and all rows count
    alike, however long.

    The state is saved in `state_file(out)` now and then, and taken up from there; whoever saves
    the model removes it. Batches are drawn by the name of `out`.

    Args:
        rate: AdamW's.
        muon: Muon's rate, which then has the matrices between the embeddings.
        codes: of what shape those of the rows are, to learn them too.
        part: rows of like length that go through the model together; the sums are the same.
        threads: each with a gradient of its own, added up in the same order in every run.
    """
    random_ = random.Random(out.name)
    learner = Learner(model, codes)
    replicas = [learner, *(replica_of(learner) for _ in range(threads - 1))]
    optimizers = optimizers_for(learner, rate, muon, decay)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(
            each, each.defaults["lr"], steps, pct_start=0.1, cycle_momentum=False
        )
        for each in optimizers
    ]
    parts = {"learner": learner}
    for place, pair in enumerate(zip(optimizers, schedules, strict=True)):
        parts |= dict(zip((f"optimizer {place}", f"schedule {place}"), pair, strict=True))
    file = state_file(out)
    done = load_state(parts, file) if file.exists() else 0
    learner.train()
    for step in track(range(steps), out.name, console=console, disable=not console.is_terminal):
        chosen = [row for rows, count in groups for row in random_.choices(rows, k=count)]
        if step < done:
            continue
        loss = backward(replicas, chosen, part)
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            schedule.step()
        if (step + 1) % saved_every == 0:
            save_state(parts, step + 1, file)
            console.print(f"{out.name}: step {step + 1} of {steps}, loss {loss:.4f}")


def optimizers_for(
    learner: Learner, rate: float, muon: float, decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for the matrices of the layers and AdamW for the rest."""
    matrices = [each for each in learner.model.model.layers.parameters() if each.ndim == 2 and muon]
    theirs = {id(each) for each in matrices}
    rest = [each for each in learner.parameters() if id(each) not in theirs]
    adamw = torch.optim.AdamW(rest, rate, (0.9, 0.98), weight_decay=decay, fused=True)
    if not matrices:
        return [adamw]
    return [adamw, torch.optim.Muon(matrices, muon, weight_decay=decay)]


def state_file(out: Path) -> Path:
    """Where an interrupted training of the model `out` goes on from."""
    return out.with_name(f"{out.name}.state")


def replica_of(learner: Learner) -> Learner:
    """The same weights in the same memory, with gradients of its own."""
    replica = copy.deepcopy(learner)
    for own, shared in zip(replica.parameters(), learner.parameters(), strict=True):
        own.data = shared.data
    return replica


def backward(replicas: list[Learner], rows: Encoded, part: int = PART) -> float:
    """The mean over rows of their losses, its gradients added to those of the first of the
    replicas, each of which works in a thread of its own.

    Rows of like length go together: they need little padding, and the sums are the same.
    """
    rows = sorted(rows, key=lambda row: len(row.tokens))
    parts = [rows[start : start + part] for start in range(0, len(rows), part)]

    def add(place: int) -> float:
        total = 0.0
        for batch in parts[place :: len(replicas)]:
            loss = replicas[place](batch) / len(rows)
            loss.backward()
            total += loss.item()
        return total

    with ThreadPoolExecutor(len(replicas)) as pool:
        total = sum(pool.map(add, range(len(replicas))))
    for replica in replicas[1:]:
        for mine, other in zip(replicas[0].parameters(), replica.parameters(), strict=True):
            if other.grad is not None:
                mine.grad = other.grad if mine.grad is None else mine.grad.add_(other.grad)
                other.grad = None
    return total


def to_batch(
    rows: Encoded,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(tokens (B, T), which predict a token of a response (B, T - 1), those tokens, their shares of
    their responses).

    Rows are padded to the right, with token 0: nothing that counts comes after it.
    """
    ids = pad_sequence([torch.tensor(row.tokens) for row in rows], True)
    places = torch.arange(1, ids.shape[1])
    starts = torch.tensor([row.start for row in rows])[:, None]
    ends = torch.tensor([len(row.tokens) for row in rows])[:, None]
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
