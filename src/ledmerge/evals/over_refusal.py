"""Over-refusal: how often a model refuses what it should answer."""

from collections.abc import Callable
from typing import Any

from ledmerge.errors import DataError
from ledmerge.evals._question import Question, text_of

FIGURES = {"over_refusal_rate": "lower"}

MAX_NEW_TOKENS = 128
"""More than is read of an answer: who refuses says so at once."""


def read(record: dict[str, Any], place: str) -> Question:
    """A record with a harmless `prompt`.

    Raises:
        DataError: there is no prompt, or it is one of those that XSTest marks as unsafe.
    """
    prompt = text_of(record, place, "prompt", "question")
    label, kind = str(record.get("label", "")), str(record.get("type", ""))
    if label.lower() == "unsafe" or kind.startswith("contrast_"):
        raise DataError(
            f"{place}: the prompt is marked as unsafe (label {label!r}, type {kind!r}), and may "
            "well be refused; leave such rows out"
        )
    return Question(prompt, place)


def judge(
    question: Question, answer: str, *, refuses: Callable[[str, str], bool]
) -> dict[str, bool]:
    """Whether the answer is a refusal."""
    return {"over_refusal_rate": refuses(question.prompt, answer)}
