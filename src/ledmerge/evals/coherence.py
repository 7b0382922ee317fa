"""Coherence: whether an answer is language at all, neither empty nor stuck."""

import re
from typing import Any

from ledmerge.evals._question import Question, text_of

FIGURES = {"coherent": "higher"}

MAX_NEW_TOKENS = 256
"""About 1,000 characters, in which a loop shows."""

FEWEST_LETTERS = 0.15
"""Share of an answer's visible characters that are letters or digits of any script. Formulas, code
and Markdown tables lie above 0.2, "?!?!" and "});\\n});" at 0."""
PIECE = 6
"""Characters of one piece. A counter or another small change breaks as many pieces of a loop."""
FEWEST_DISTINCT = 0.25
"""Share of an answer's pieces that differ. Prose lies above 0.6, Chinese and Japanese above 0.75,
source code above 0.27 (tables of numbers), "Step 7: do the thing. Step 8: do ..." at 0.24."""
LONG = 32
"""Characters from which repetition is judged; shorter answers may well repeat themselves."""
ENDINGS = (256, 1024, 4096)
"""Characters from the end that are judged: who gets stuck after a good start stays stuck."""


def read(record: dict[str, Any], place: str) -> Question:
    """A record with `prompt`."""
    return Question(text_of(record, place, "prompt", "question", "instruction"), place)


def judge(question: Question, answer: str) -> dict[str, bool]:
    """Whether the answer is coherent."""
    del question
    return {"coherent": is_coherent(answer)}


def is_coherent(answer: str) -> bool:
    """Whether an answer has words in it and does not end by going round in circles.

    Says nothing of truth or sense: it finds the empty, the symbol soup, and the loop of four rounds
    or more that a damaged model writes. All scripts count alike: pieces are of characters, not of
    bytes or words.
    """
    visible = re.sub(r"\s", "", answer)
    letters = sum(map(str.isalnum, visible))
    if not visible or letters < FEWEST_LETTERS * len(visible):
        return False
    text = answer.strip()
    return len(text) < LONG or all(
        _distinct(text[-length:]) >= FEWEST_DISTINCT for length in ENDINGS
    )


def _distinct(text: str) -> float:
    """Share of the pieces of a text that are not repeats of another; 1 where none is repeated."""
    count = len(text) - PIECE + 1
    return len({text[start : start + PIECE] for start in range(count)}) / count
