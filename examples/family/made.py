"""Requests made from the training phrases: many, half of them nonsense, and none with an answer.

`teacher.py` writes them with what it makes of each; `train.py` reads them.
"""

import lzma
import random
import string
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("made.tsv.xz")
PARTS, CODES = 8, 64
"""What a request is about: a code, of so many, for each part of what the teacher made of it."""
DIGITS = string.ascii_letters + string.digits + "+/"
MARKS = ".,?"
LONGEST = 21
"""Words of a made request."""
WAYS = (
    ("splice",),
    ("splice",),
    ("exchange",),
    ("exchange", "borrow"),
    ("borrow",),
    ("splice", "borrow"),
)
"""What is done to a request, one of these as likely as another."""


class Maker:
    """Makes requests of others."""

    def __init__(
        self, texts: Sequence[str], near: dict[str, list[str]], seed: int, shortest: int = 4
    ):
        """
        Args:
            texts: what to begin with.
            near: words of like meaning for a word in small letters.
            shortest: words of a made request at least; those to begin with have more.
        """
        self.shortest = shortest
        self.cut = [words for words in (text.split(" ") for text in texts) if len(words) > shortest]
        self.near = near
        self.draw = random.Random(seed)
        self.endings: dict[str, list[list[str]]] = defaultdict(list)
        self.followers: dict[str, list[str]] = defaultdict(list)
        for words in self.cut:
            for place in range(1, len(words)):
                self.followers[words[place - 1]].append(words[place])
                if 1 < place < len(words) - 1:
                    self.endings[words[place]].append(words[place:])

    def make(self, count: int) -> list[str]:
        """So many different ones, in order of the alphabet."""
        found: set[str] = set()
        while len(found) < count:
            words = [*self.draw.choice(self.cut)]
            for way in self.draw.choice(WAYS):
                words = getattr(self, way)(words)
            if self.shortest <= len(words) <= LONGEST:
                found.add(" ".join(words))
        return sorted(found)

    def splice(self, words: list[str]) -> list[str]:
        """It goes on as another request does behind a word that both have."""
        place = self.draw.randrange(2, len(words) - 1)
        return words[:place] + self.draw.choice(self.endings[words[place]])

    def exchange(self, words: list[str]) -> list[str]:
        """Two words give way to such as follow the word before elsewhere."""
        mark = words[-1][-1] if words[-1][-1] in MARKS else ""
        for place in self.draw.sample(range(1, len(words)), 2):
            words[place] = self.draw.choice(self.followers[words[place - 1]] or [words[place]])
        words[-1] = words[-1].rstrip(MARKS) + mark
        return words

    def borrow(self, words: list[str]) -> list[str]:
        """One to three words give way to words of like meaning."""
        known = [place for place, word in enumerate(words) if bare(word) in self.near and place]
        count = min(len(known), self.draw.randint(1, 3))
        for place in self.draw.sample(known, count):
            other = self.draw.choice(self.near[bare(words[place])])
            words[place] = words[place].replace(words[place].strip(MARKS), other)
        return words


def bare(word: str) -> str:
    """In small letters, without what ends a sentence."""
    return word.strip(MARKS).lower()


class Made(NamedTuple):
    """A made request, and what the teacher makes of it.

    Attributes:
        codes: what it is about, `PARTS` numbers below `CODES`.
    """

    text: str
    harmful: bool
    codes: tuple[int, ...]


def write(found: Iterable[Made]) -> None:
    lines = (
        f"{''.join(DIGITS[code] for code in each.codes)}\t{each.harmful:d}\t{each.text}\n"
        for each in found
    )
    FILE.write_bytes(lzma.compress("".join(lines).encode(), preset=9))


def read() -> list[Made]:
    number = {digit: code for code, digit in enumerate(DIGITS)}
    lines = lzma.decompress(FILE.read_bytes()).decode().splitlines()
    cells = (line.split("\t") for line in lines)
    return [
        Made(text, harmful == "1", tuple(number[digit] for digit in digits))
        for digits, harmful, text in cells
    ]
