"""Tells of many made wordings which function they ask for, for the family to learn from.

    pip install -r examples/demo/requirements.txt
    python examples/family/function_teacher.py [--cache FOLDER] [--made 24000]

As `teacher.py` does for requests: a sentence encoder, fine-tuned whole on the wordings to train on,
names wordings made of them. Those it is sure of go to `wordings.tsv.xz`. Prints the shares of
held-out wordings that it names right, by every name of the argument. Takes five minutes.
"""

import argparse
import lzma
from pathlib import Path

import torch
from encoder import CACHE, Encoder, ask, console, fine_tune, words_of_like_meaning
from functions import ARGUMENTS, HELD_OUT, MADE, TASKS, wordings
from made import Maker
from rows import draw
from torch.nn.functional import cross_entropy

SURE = 0.9
HOW = {"epochs": 6, "batch": 32, "rate": 2e-4}


def named(wording: str) -> str:
    """The wording with a name for its argument."""
    return wording.format(x=ARGUMENTS[draw(wording, len(ARGUMENTS))])


def tell(teacher: Encoder) -> None:
    """Prints the shares of held-out wordings that it names right."""
    for split in HELD_OUT:
        asked = [(wordings(task, split)[0], place) for place, task in enumerate(TASKS)]
        pairs = [(wording.format(x=x), place) for wording, place in asked for x in ARGUMENTS]
        numbers, _ = ask(teacher, [text for text, _ in pairs])
        right = numbers.argmax(1) == torch.tensor([place for _, place in pairs])
        console.print(f"{split}: {right.double().mean():.1%} named right")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--made", type=int, default=24_000, help="wordings to make")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    teacher = Encoder(arguments.cache, outputs=len(TASKS))
    own = [(text, place) for place, task in enumerate(TASKS) for text in wordings(task, "train")]
    plain = [text for task in TASKS for text in task.wordings[:-2]]
    near = words_of_like_meaning(teacher, plain, common=12)
    fine_tune(teacher, [(named(text), place) for text, place in own], cross_entropy, **HOW)
    tell(teacher)
    held = {wording for task in TASKS for wording in task.wordings[-2:]}
    made = Maker([text for text, _ in own], near, seed=0, shortest=3).make(arguments.made)
    made = [text for text in made if "{x}" in text and text not in held]
    numbers, _ = ask(teacher, [text.replace("{x}", "x") for text in made])
    shares, places = numbers.softmax(1).max(1)
    kept = [
        f"{place}\t{text}\n"
        for text, place, share in zip(made, places.tolist(), shares.tolist(), strict=True)
        if share > SURE
    ]
    MADE.write_bytes(lzma.compress("".join(kept).encode(), preset=9))
    console.print(f"{len(kept):,} of {len(made):,} wordings kept")


if __name__ == "__main__":
    main()
