"""Names many made requests harmful or benign, for the family to learn from.

    pip install -r examples/demo/requirements.txt
    python examples/family/teacher.py [--cache FOLDER] [--made 400000]

The training phrases tell a model which deeds are harmful, if it knows English, which a model of a
million parameters does not. The teacher does: a sentence encoder, fine-tuned whole on the phrases.
It prints what it can on the validation phrases and on the shipped judge set, neither of which it
has learnt from, and writes `made.tsv.xz`: every request with its name, and the teacher's state in
eight codes of 64, which tell the student far more than a name does. Takes half an hour on two
cores.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from asking import look_alikes, requests
from encoder import CACHE, Encoder, Rows, ask, console, fine_tune, words_of_like_meaning
from made import CODES, PARTS, Made, Maker, write
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

JUDGED = Path(__file__).resolve().parents[2] / "src/ledmerge/family/data"
KINDS = ("harmful", "benign")
FALSE_ALARMS = 0.05
KEPT = 64
"""Directions of the states that are coded, those of most variance."""
FITTED, TURNS = 60_000, 12
"""States that the codes are fitted on, and turns of k-means."""
HOW = {"epochs": 3, "batch": 64, "rate": 1e-4}


def harm_loss(numbers: Tensor, truth: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(numbers[:, 0], truth)


def truth() -> Rows:
    """All training requests; look-alikes count twice."""
    harmful, benign = (requests(kind, "train", 1) for kind in ("harmful", "benign"))
    return [(t, 1.0) for t in harmful] + [(t, 0.0) for t in benign + look_alikes("train", 1)]


def tell(teacher: Encoder) -> None:
    """Prints the shares of harmful ones it catches where it calls 5 % of look-alikes harmful."""
    asked = {"validation": (requests("harmful", "validation", 1), look_alikes("validation", 1))}
    asked["judge set"] = (read("harmful"), read("benign"))
    for where, (harmful, benign) in asked.items():
        line = ask(teacher, benign)[0].quantile(1 - FALSE_ALARMS)
        share = (ask(teacher, harmful)[0] > line).double().mean()
        console.print(f"{where}: {share:.1%} caught at {FALSE_ALARMS:.0%} false alarms")


def read(kind: str) -> list[str]:
    lines = (JUDGED / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def named(teacher: Encoder, texts: Sequence[str]) -> list[Made]:
    """Each with what the teacher makes of it."""
    with torch.autocast("cpu", torch.bfloat16):  # twice as fast, and few are near the line
        numbers, states = ask(teacher, texts)
    harmful = (numbers[:, 0] > 0).tolist()
    about = [tuple(each) for each in coded(states).tolist()]
    return [Made(*each) for each in zip(texts, harmful, about, strict=True)]


def coded(states: Tensor) -> Tensor:
    """What is in each state (N, W), as numbers below `CODES`: (N, `PARTS`), a product quantization.

    The principal directions are dealt out to parts of like spread, and each part is clustered.
    """
    generator = torch.Generator().manual_seed(0)
    fitted = torch.randperm(len(states), generator=generator)[:FITTED]
    states = states - states[fitted].mean(0)
    _, _, directions = torch.linalg.svd(states[fitted], full_matrices=False)
    turned = states @ directions[:KEPT].T
    found = []
    for part in dealt_out(turned[fitted].std(0).tolist()):
        own = turned[:, part]
        centres = clusters(own[fitted])
        found.append(torch.cat([nearest(some, centres) for some in own.split(20_000)]))
    return torch.stack(found, 1)


def dealt_out(spreads: list[float]) -> list[list[int]]:
    """The directions, widest first, in `PARTS` parts: each to the part that has least as yet."""
    parts: list[list[int]] = [[] for _ in range(PARTS)]
    for direction in range(len(spreads)):
        open_ = [part for part in parts if len(part) < len(spreads) // PARTS]
        min(open_, key=lambda part: sum(spreads[each] for each in part)).append(direction)
    return parts


def clusters(states: Tensor) -> Tensor:
    """Centres (CODES, W) of the states (N, W), by k-means."""
    centres = states[:CODES].clone()
    for _ in range(TURNS):
        own = nearest(states, centres)
        counts = own.bincount(minlength=CODES).clamp(min=1)
        centres = torch.zeros_like(centres).index_add_(0, own, states) / counts[:, None]
    return centres


def nearest(states: Tensor, centres: Tensor) -> Tensor:
    """Which of the centres (K, W) is nearest to each state (N, W): (N,)."""
    return (states @ centres.T - centres.square().sum(1) / 2).argmax(1)


def held_out() -> set[str]:
    """What nothing may learn from: the validation phrases in all forms, and the judge set."""
    asked = {text for kind in KINDS for text in requests(kind, "validation", 12)}
    return asked.union(*(read(kind) for kind in KINDS))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--made", type=int, default=400_000, help="requests to make")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    teacher = Encoder(arguments.cache, outputs=1)
    phrases = [text for kind in KINDS for text in requests(kind, "train", 1)]
    near = words_of_like_meaning(teacher, phrases, common=60)
    fine_tune(teacher, truth(), harm_loss, **HOW)  # in float32: see docs/decisions.md
    tell(teacher)
    texts = sorted({text for kind in KINDS for text in requests(kind, "train", 12)})
    found = Maker(texts, near, seed=0).make(arguments.made)
    held = held_out()
    write(named(teacher, [text for text in found if text not in held]))


if __name__ == "__main__":
    main()
