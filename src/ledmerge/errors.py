"""Every error a user can meet.

LedmergeError
├── RecipeError        a recipe or an option cannot be understood
├── CheckpointError    a model's files are missing, damaged, or do not fit the others
│   └── NonFiniteError a weight, gradient or score is NaN or infinite
├── DataError          rows, templates or tokenizers do not give usable samples
│   └── TooLongError   a prompt and its answer are more than the model reads
├── ScoreError         scores are missing, or were made for another model or other data
└── OutputError        the destination is too small, or cannot be written
    └── InUseError     another process is writing it

A message says what was found, where, what was expected and what to do. Only `ledmerge.cli` turns
an error into a line on the terminal and an exit code.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class LedmergeError(Exception):
    """A mistake a user can mend; the message says how."""


class RecipeError(LedmergeError):
    """A recipe or an option cannot be understood."""


class CheckpointError(LedmergeError):
    """A model's files are missing, damaged, or do not fit the others."""


class NonFiniteError(CheckpointError):
    """A weight, gradient or score is NaN or infinite."""


class DataError(LedmergeError):
    """Rows, templates or tokenizers do not give usable samples."""


class TooLongError(DataError):
    """A prompt and its answer are more than the model reads.

    Attributes:
        found: the message without what to do, for who knows better.
    """

    def __init__(self, found: str, mend: str):
        super().__init__(f"{found}; {mend}")
        self.found = found


class ScoreError(LedmergeError):
    """Scores are missing, or were made for another model or other data."""


class OutputError(LedmergeError):
    """The destination is in use, too small, or cannot be written."""


class InUseError(OutputError):
    """Another process is writing the destination."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean 'density'?' where a known word is near, else the list of known words."""
    by_lower = {name.lower(): name for name in sorted(known)}
    near = get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{by_lower[near[0]]}'?"
    return f"; known are: {', '.join(by_lower.values())}" if by_lower else ""
