"""Multiple choice: whether the right choice is the one a model holds likeliest.

Reads ARC (`choices` of `text` and `label`, `answerKey` as a label) and MMLU (a list `choices`,
`answer` as a place from 0, a letter, or the choice itself).
"""

import string
from collections.abc import Sequence
from typing import Any

from ledmerge.errors import DataError, did_you_mean
from ledmerge.evals._question import Likelihood, Question, text_of

FIGURES = {"accuracy": "higher", "accuracy_norm": "higher"}


def read(record: dict[str, Any], place: str) -> Question:
    """A record with a question, its choices and which is right, kept as its place from 0.

    Raises:
        DataError: there are fewer than two choices, two with one label, or none is the right one.
    """
    prompt = text_of(record, place, "question", "prompt")
    choices: Any = record.get("choices")
    if isinstance(choices, dict):
        choices, labels, name = choices.get("text"), choices.get("label"), "answerKey"
    else:
        labels, name = None, "answer"
    texts = _texts(choices, place)
    if labels is not None and (not isinstance(labels, list) or len(labels) != len(texts)):
        raise DataError(f"{place}: {len(texts)} choices, but their labels are {labels!r:.80}")
    given = [str(label).strip() for label in labels or ()]
    if twice := [label for label in dict.fromkeys(given) if given.count(label) > 1]:
        found = ", ".join(f"the label '{x}' stands for {given.count(x)} choices" for x in twice)
        raise DataError(f"{place}: {found}; give each a label of its own")
    if name not in record:
        raise DataError(f"{place}: no field '{name}'{did_you_mean(name, record)}")
    expected = _right(record[name], texts, given, f"{place}: '{name}'")
    return Question(prompt, place, expected=expected, choices=texts)


def judge(question: Question, answer: Sequence[Likelihood]) -> dict[str, bool]:
    """`accuracy`: by likelihood; `accuracy_norm`: by likelihood per byte, fair to long choices.

    The first of equals counts.
    """
    found = [likelihood.log_likelihood for likelihood in answer]
    sizes = [len(choice.encode()) for choice in question.choices]
    assert len(found) == len(sizes), (
        f"{question.place}: {len(found)} answers to {len(sizes)} choices"
    )
    per_byte = [total / size for total, size in zip(found, sizes, strict=True)]
    return {
        "accuracy": found.index(max(found)) == question.expected,
        "accuracy_norm": per_byte.index(max(per_byte)) == question.expected,
    }


def _texts(choices: Any, place: str) -> tuple[str, ...]:
    texts = choices if isinstance(choices, list) else []
    if len(texts) < 2 or not all(isinstance(text, str) and text.strip() for text in texts):
        raise DataError(
            f"{place}: 'choices' should be two texts or more, as a list or as "
            f"{{'text': [...], 'label': [...]}}; found {choices!r:.80}"
        )
    return tuple(texts)


def _right(answer: Any, texts: tuple[str, ...], given: list[str], where: str) -> int:
    """The place of the right choice.

    Labels that the record gives go before all else: of labels 1 to 4, an answer 1 is the first, and
    0 is none. Without any, a text that is a choice and another's letter is the choice.
    """
    letters = list(string.ascii_uppercase[: len(texts)])
    if str(answer).strip() in given:
        return given.index(str(answer).strip())
    if isinstance(answer, int) and not (isinstance(answer, bool) or any(map(str.isdecimal, given))):
        if 0 <= answer < len(texts):
            return answer
    elif isinstance(answer, str):
        for known in ([text.strip() for text in texts], [] if given else letters):
            if answer.strip() in known:
                return known.index(answer.strip())
    place = "" if any(map(str.isdecimal, given)) else f", or a place from 0 to {len(texts) - 1}"
    raise DataError(
        f"{where} is {answer!r:.80}, expected one of the labels {', '.join(given or letters)}, "
        f"a choice's own text{place}"
    )
