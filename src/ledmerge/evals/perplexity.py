"""Perplexity: how well a model still foresees neutral text."""

import math
from collections.abc import Sequence
from typing import Any

from ledmerge.evals._question import Likelihood, Question, text_of

FIGURES = {"bits_per_byte": "lower"}


def read(record: dict[str, Any], place: str) -> Question:
    """A record with `text`, which stands alone, without a chat template."""
    return Question("", place, choices=(text_of(record, place, "text"),))


def judge(question: Question, answer: Sequence[Likelihood]) -> dict[str, float]:
    """-log_likelihood / (ln 2 * bytes of the text in UTF-8).

    Per byte and not per token: models whose tokenizers cut a text differently stay comparable. 8 is
    a model that holds all bytes equally likely.
    """
    [text], [likelihood] = question.choices, answer
    return {"bits_per_byte": -likelihood.log_likelihood / math.log(2) / len(text.encode())}
