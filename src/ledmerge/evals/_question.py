"""What a model is asked, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ledmerge.errors import DataError, did_you_mean
from ledmerge.evals._harmbench import Behavior, check_characters


@dataclass(frozen=True)
class Question:
    """One question to a model.

    Attributes:
        prompt: the user's message, before the model's chat template; where it is empty, the choices
            stand alone, without a template.
        place: where it stands in the user's file, for messages.
        before: the turns that went before, each a user's message and the reply to it.
        reply: an assistant's reply to the prompt, where the model is asked about that.
        expected: what the benchmark compares the answer with.
        behavior: what a judge of harm judges the answer by.
        choices: continuations whose likelihood is asked instead of a generated answer.
        is_whole: the prompt is all that the model reads, as it stands: no template, no new line.
        key: the record's own name, such as HarmBench's behaviour id.
    """

    prompt: str
    place: str
    before: tuple[tuple[str, str], ...] = ()
    reply: str = ""
    expected: Any = None
    behavior: Behavior = field(default=Behavior(""))
    choices: tuple[str, ...] = ()
    is_whole: bool = False
    key: str = ""

    def __post_init__(self) -> None:
        """Raise DataError where a text holds half a character."""
        turns = (text for turn in self.before for text in turn)
        for text in (self.prompt, self.reply, *turns, *self.choices, *self.behavior, self.key):
            check_characters(text, f"{self.place}: {text!r:.40}")


class Likelihood(NamedTuple):
    """How likely a model holds one choice: natural log, summed over its tokens."""

    log_likelihood: float
    num_tokens: int


class Text(str):
    """A generated answer.

    Attributes:
        is_cut: it ended because it had as many tokens as it might get.
    """

    __slots__ = ("is_cut",)

    def __new__(cls, text: str, is_cut: bool = False) -> "Text":
        """See the class."""
        self = super().__new__(cls, text)
        self.is_cut = is_cut
        return self


Answer = str | Sequence[Likelihood]
"""What was generated, a `Text` where a model was asked here; or, for a question with choices, one
likelihood each."""


def text_of(record: dict[str, Any], place: str, *names: str) -> str:
    """The first of the fields `names` that the record has; not blank.

    Raises:
        DataError: none of them is there, or it holds no text.
    """
    name = next((name for name in names if name in record), None)
    if name is None:
        wanted = " or ".join(f"'{name}'" for name in names)
        raise DataError(f"{place}: no field {wanted}{did_you_mean(names[0], record)}")
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: '{name}' should be text, found {value!r:.80}")
    return value
