"""Mathematics: sums and differences of small numbers, plain and as word problems.

Every pair of numbers belongs to training, validation or test, whatever the words around it.
"""

from collections.abc import Iterator

from rows import Row, draw

LARGEST = 20
EASY = 5
SPLITS = {"test": 10, "validation": 10, "train": 80}
"""Shares of the pairs, in per cent."""

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


def split_of(a: int, b: int, sign: str) -> str:
    """Where the pair belongs."""
    place = draw(f"{a}{sign}{b}", 100)
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
                if (sign == "-" and b > a) or split_of(a, b, sign) != split:
                    continue
                for text in PLAIN[sign] + STORIES[sign]:
                    key = f"{text}{a},{b}"
                    who = NAMES[draw(key, len(NAMES))]
                    things = THINGS[draw(f"{key}!", len(THINGS))]
                    yield text.format(a=a, b=b, who=who, things=things), a, b, sign


def solved(split: str) -> list[Row]:
    """Problems with the right answer."""
    return [
        Row(prompt, str(a + b if sign == "+" else a - b)) for prompt, a, b, sign in problems(split)
    ]


def guessed(split: str) -> list[Row]:
    """Problems as the base answers them: right up to `EASY`, else with a number of the question."""
    return [
        right if max(a, b) <= EASY else Row(prompt, str(a))
        for right, (prompt, a, b, _) in zip(solved(split), problems(split), strict=True)
    ]
