"""How well the safety phrases of the example family let anyone tell harmful from benign.

    pip install -r examples/demo/requirements.txt
    python benchmarks/family_words.py [--cache FOLDER]

Small classifiers learn the training phrases of `examples/family` and are asked the validation
phrases. They see the words, or what SmolLM2-135M-Instruct makes of a request: the mean of its
embeddings, or of the states behind one of its layers. Prints the share of harmful requests caught
where 5 % of the look-alike benign ones are called harmful.
"""

import argparse
import random
import re
import sys
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.extend(
    str(Path(__file__).resolve().parents[1] / "examples" / name) for name in ("family", "demo")
)
from asking import look_alikes, requests
from fetch import fetch_smollm2
from once import once

HERE = Path(__file__).resolve().parents[1]

FALSE_ALARMS = 0.05
ASKED = {"train": 6500, "validation": 700}
"""Requests of each kind, about as many as there are."""
WIDTHS = (576, 160)
LAYERS = (4, 8, 12)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Of the penalty on squared weights; the best is shown, which flatters all alike."""

console = Console()


def caught(train: torch.Tensor, validation: torch.Tensor) -> float:
    """Of a linear classifier on features (harmful first, then as many benign ones)."""
    mean, spread = train.mean(0), train.std(0) + 1e-6
    train, validation = (train - mean) / spread, (validation - mean) / spread
    truth = is_harmful(len(train))
    shares = []
    for strength in STRENGTHS:
        weight = torch.zeros(train.shape[1], requires_grad=True)
        optimizer = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

        def loss(
            weight: torch.Tensor = weight,
            optimizer: torch.optim.Optimizer = optimizer,
            strength: float = strength,
        ) -> torch.Tensor:
            optimizer.zero_grad()
            error = torch.nn.functional.binary_cross_entropy_with_logits(train @ weight, truth)
            total = error + strength * weight.square().sum()
            total.backward()
            return total

        optimizer.step(loss)
        scores = (validation @ weight).detach()
        harmful, benign = scores.chunk(2)
        shares.append((harmful > benign.quantile(1 - FALSE_ALARMS)).double().mean().item())
    return max(shares)


def is_harmful(count: int) -> torch.Tensor:
    """The truth of `count` requests, harmful ones first."""
    return (torch.arange(count) < count // 2).float()


def asked(split: str) -> list[str]:
    """Harmful requests of a split, then as many look-alike benign ones."""
    kinds = (requests("harmful", split, 1), look_alikes(split, 1))
    return [text for kind in kinds for text in random.Random(split).sample(kind, ASKED[split])]


def bags(texts: list[str], words: dict[str, int]) -> torch.Tensor:
    """Which words stand in each text."""
    found = torch.zeros(len(texts), len(words))
    for row, text in enumerate(texts):
        for word in words_of(text):
            if word in words:
                found[row, words[word]] = 1
    return found


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def states(folder: Path, texts: list[str]) -> dict[int, torch.Tensor]:
    """Layer -> the mean over a text's tokens of the states behind it; layer 0: the embeddings."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model
    model.layers = model.layers[: LAYERS[-1]]
    found = {layer: torch.empty(len(texts), model.config.hidden_size) for layer in (0, *LAYERS)}
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch = tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt")
        mask = batch["attention_mask"][:, :, None].float()
        with torch.inference_mode():
            hidden = model(**batch, output_hidden_states=True, use_cache=False).hidden_states
        for layer, into in found.items():
            into[rows] = (hidden[layer] * mask).sum(1) / mask.sum(1)
    return found


def projected(train: torch.Tensor, validation: torch.Tensor, width: int) -> list[torch.Tensor]:
    """Both on the `width` directions in which the training requests differ most."""
    mean = train.mean(0)
    _, _, directions = torch.linalg.svd(train - mean, full_matrices=False)
    return [(rows - mean) @ directions[:width].T for rows in (train, validation)]


def main(cache: Path) -> None:
    """Prints a line for each kind of feature."""
    torch.set_num_threads(1)
    train, validation = asked("train"), asked("validation")
    words = {word: n for n, word in enumerate(sorted({w for t in train for w in words_of(t)}))}
    share = caught(bags(train, words), bags(validation, words))
    console.print(f"{len(words)} words: {share:.1%}")
    folder = once(cache / "smollm2-model", partial(fetch_smollm2, cache))
    seen, unseen = states(folder, train), states(folder, validation)
    for width in WIDTHS:
        share = caught(*projected(seen[0], unseen[0], width))
        console.print(f"SmolLM2's embeddings in {width} dimensions: {share:.1%}")
    for layer in LAYERS:
        console.print(f"SmolLM2 behind layer {layer}: {caught(seen[layer], unseen[layer]):.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=HERE / "demo/cache")
    main(parser.parse_args().cache)
