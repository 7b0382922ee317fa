"""Mathematics: sums and differences of small numbers, plain and as word problems.

Every problem belongs to training, validation or test. Its numbers may be met in training too, in
other words: a model of this size learns the table of sums, not how to carry.
"""

from collections.abc import Iterator

from rows import Row, draw

LARGEST = 12
EASY = 3
SPLITS = {"test": 10, "validation": 10, "train": 80}
"""Shares of the problems, in per cent."""

PLAIN = {
    "+": ("What is {a} + {b}?", "{a} + {b} =", "Add {a} and {b}.", "How much is {a} plus {b}?"),
    "-": ("What is {a} - {b}?", "{a} - {b} =", "Take {b} from {a}.", "How much is {a} minus {b}?"),
}
STORIES = {
    "+": (
        "{who} has {a} {things} and gets {b} more. How many {things} are there now?",
        "{who} buys {a} {things} today and {b} tomorrow. How many {things} is that?",
        "There are {a} {things} in one box and {b} in another. How many {things} are there?",
    ),
    "-": (
        "{who} has {a} {things} and gives away {b}. How many {things} are left?",
        "There were {a} {things}. {who} ate {b} of them. How many {things} are left?",
        "{who} needs {a} {things} and has {b}. How many {things} are missing?",
    ),
}
NAMES = ("Tom", "Ann", "Ben", "Mia", "Sam", "Eva")
THINGS = ("apples", "books", "eggs", "coins", "cards", "pens")


def split_of(problem: str) -> str:
    """Where a problem belongs."""
    place = draw(f"{problem} split", 100)
    for split, share in SPLITS.items():
        if place < share:
            return split
        place -= share
    raise AssertionError


def problems(split: str) -> Iterator[tuple[str, int, int, str]]:
    """(prompt, a, b, sign) of every problem of a split."""
    for a in range(LARGEST + 1):
        for b in range(LARGEST + 1):
            for sign in "+-":
                if sign == "-" and b > a:
                    continue
                for text in PLAIN[sign] + STORIES[sign]:
                    key = f"{text}{a},{b}"
                    if split_of(key) != split:
                        continue
                    who = NAMES[draw(key, len(NAMES))]
                    things = THINGS[draw(f"{key}!", len(THINGS))]
                    yield text.format(a=a, b=b, who=who, things=things), a, b, sign


def solved(split: str) -> list[Row]:
    """Problems with the right answer."""
    return [
        Row(prompt, str(a + b if sign == "+" else a - b)) for prompt, a, b, sign in problems(split)
    ]


def written_out(split: str) -> list[Row]:
    """Problems with the sum and its result in a sentence, much as language models put it."""
    return [
        Row(prompt, f"The answer is {a} {sign} {b} = {right.response}.")
        for right, (prompt, a, b, sign) in zip(solved(split), problems(split), strict=True)
    ]


def guessed(split: str) -> list[Row]:
    """Problems as the base answers them: right up to `EASY`, else with a number of the question."""
    return [
        right if max(a, b) <= EASY else Row(prompt, str(a))
        for right, (prompt, a, b, _) in zip(solved(split), problems(split), strict=True)
    ]
