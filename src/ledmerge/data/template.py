"""A row as the text a model reads, and where in it the response stands."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from ledmerge.data.rows import Message, Row
from ledmerge.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\ue000response\ue000"  # private-use characters: no template trims or splits it


@dataclass(frozen=True)
class Rendered:
    """One row as text.

    Attributes:
        text: prompt and response.
        start: index of the response's first character.
        end: index after the response's last character; what follows closes the turn.
        has_special_tokens: the text spells its special tokens out, so the tokenizer adds none.
    """

    text: str
    start: int
    end: int
    has_special_tokens: bool


def render(row: Row, tokenizer: PreTrainedTokenizerBase, template: str) -> Rendered:
    """The row in a chat template, or plain: messages and response joined by newlines.

    The template "auto" is the tokenizer's own, or plain where it has none; "none" is plain;
    anything else is the path of a Jinja file.

    Raises:
        DataError: there is no such template, or it refuses, drops or rewrites what the row says.
    """
    source = template_text(tokenizer, template)
    if not source:
        return _render_plain(row)
    try:
        return _render_chat(row, tokenizer, source)
    except (TemplateError, ValueError) as error:
        raise DataError(f"{row.place}, chat template '{template}': {error}") from error


def render_prompt(
    messages: tuple[Message, ...], tokenizer: PreTrainedTokenizerBase, template: str, place: str
) -> tuple[str, bool]:
    """(the text up to where the model shall answer, whether it spells out its special tokens).

    The template is chosen as in `render`; plain is the messages and a newline after each. Without
    messages the text is empty.

    Raises:
        DataError: there is no such template, or it refuses the messages.
    """
    source = template_text(tokenizer, template)
    if not source or not messages:
        return "".join(f"{message.content.rstrip()}\n" for message in messages), False
    try:
        return _apply(messages, tokenizer, source, is_open=True), True
    except (TemplateError, ValueError) as error:
        raise DataError(f"{place}, chat template '{template}': {error}") from error


def template_text(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """The Jinja source that `render` uses, to be recorded beside a result; "" for plain."""
    if template == "none" or (template == "auto" and not tokenizer.chat_template):
        return ""
    if template == "auto":
        return tokenizer.get_chat_template()
    path = Path(template)
    source = path.read_text(encoding="utf-8") if path.is_file() else ""
    if not source.strip():
        near = did_you_mean(template, ("auto", "none"))
        raise DataError(f"template '{template}' is not a file with a chat template{near}")
    return source


def template_content(template: str) -> str:
    """The text of a template file; 'auto' and 'none' as they are."""
    if template in ("auto", "none"):
        return template
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        near = did_you_mean(template, ("auto", "none"))
        raise DataError(f"template '{template}' cannot be read as a file{near}") from error


def _render_plain(row: Row) -> Rendered:
    prompt = "\n".join(message.content for message in row.messages)
    if not prompt[-1:].isspace() and not row.response[:1].isspace():
        prompt += "\n"
    text = prompt + row.response
    return Rendered(text, len(prompt), len(text), has_special_tokens=False)


def _render_chat(row: Row, tokenizer: PreTrainedTokenizerBase, source: str) -> Rendered:
    """Finds the response by rendering the row a second time with a mark in its place.

    A search for the response itself would go wrong where the template trims it, and for answers
    such as "s", which also stands in "</s>".
    """

    def answered(response: str, messages: tuple[Message, ...] = row.messages) -> str:
        turns = (*messages, Message("assistant", response))
        return _apply(turns, tokenizer, source, is_open=False)

    text = answered(row.response)
    before, _, after = answered(_MARK).rpartition(_MARK)
    opening = _apply(row.messages, tokenizer, source, is_open=True)
    # White space after the generation prompt is the model's to write: Llama-2's "[/INST] answer".
    # Anything else there is the template's, like the empty <think> block of Qwen3.
    is_written = before.removeprefix(opening).strip() and text.startswith(before)
    prompt = before if is_written else opening
    start, end = len(prompt), len(text) - len(after)

    is_split = text.startswith(prompt) and text.endswith(after)
    if not is_split or _squeeze(row.response) not in _squeeze(text[start:end]):
        raise ValueError("the response does not come out as given; use 'none' or a template file")
    for place, message in enumerate(row.messages):
        if _squeeze(message.content) in _squeeze(text):
            continue
        # A template may take a part out, such as an earlier thought, or a word that is a switch.
        others = list(row.messages)
        others[place] = replace(message, content=_MARK)
        if answered(row.response, tuple(others)) == text:
            raise ValueError(
                f"message {place + 1} ({message.role}) is left out; use 'none' or a template file"
            )
    return Rendered(text, start, end, has_special_tokens=True)


def _apply(
    messages: tuple[Message, ...], tokenizer: PreTrainedTokenizerBase, source: str, is_open: bool
) -> str:
    turns = [asdict(message) for message in messages]
    text = tokenizer.apply_chat_template(
        turns, chat_template=source, tokenize=False, add_generation_prompt=is_open
    )
    assert isinstance(text, str)
    return text


def _squeeze(text: str) -> str:
    """The text without white space, which templates trim and rearrange."""
    return "".join(text.split())
