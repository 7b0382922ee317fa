"""Rows as token ids with a mask over the response."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledmerge.data.rows import Row
from ledmerge.data.template import render
from ledmerge.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sample:
    """One tokenised row.

    Attributes:
        ids: prompt, response, and what closes the turn, (T,).
        is_response: whether token t is a target of the loss, (T,); some are, the first never is,
            as nothing predicts it.
        place: where the row stands, for messages.
    """

    ids: tuple[int, ...]
    is_response: tuple[bool, ...]
    place: str


def make_samples(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerBase,
    template: str = "auto",
    max_length: int = 2048,
) -> list[Sample]:
    """One sample per row: the targets are the response and the token that ends the turn.

    The text is tokenised once, whole, since a prompt and a response tokenised apart may give
    other tokens than the model meets. A token that holds the last of the prompt and the first of
    the response is a target. The template is `ledmerge.data.template.render`'s; `max_length`
    counts tokens, and what is cut is cut from the right.

    Raises:
        DataError: the tokenizer gives no character offsets, a row does not suit the template, or
            no token of its response is left.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            f"{type(tokenizer).__name__} gives no character offsets; use a fast tokenizer, "
            "one with a tokenizer.json"
        )
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(index for index, token in added if token.special)}
    return [_make_sample(row, tokenizer, special, template, max_length) for row in rows]


def _make_sample(
    row: Row,
    tokenizer: PreTrainedTokenizerBase,
    special: Set[int],
    template: str,
    max_length: int,
) -> Sample:
    rendered = render(row, tokenizer, template)
    encoding = tokenizer(
        rendered.text,
        add_special_tokens=not rendered.has_special_tokens,
        return_offsets_mapping=True,
        verbose=False,  # too long for the model is no news: it is cut below
    )
    ids = list(encoding["input_ids"])
    if not rendered.has_special_tokens and tokenizer.eos_token_id not in (None, *ids[-1:]):
        ids.append(tokenizer.eos_token_id)

    # A special token counts only where the response spells it: Phi-3's <|assistant|> swallows the
    # white space after it, and would count for every response that begins with some.
    start, end = rendered.start, rendered.end
    inside = [
        t
        for t, (left, right) in enumerate(encoding["offset_mapping"])
        if left < end and start < right and (ids[t] not in special or start <= left < right <= end)
    ]
    first, last = (max(inside[0], 1), inside[-1]) if inside else (len(ids), len(ids))
    turn_end = next((t for t in range(last + 1, len(ids)) if ids[t] in special), last)
    is_response = tuple(first <= t <= turn_end for t in range(len(ids)))[:max_length]
    if not any(is_response):
        raise DataError(
            f"{row.place}: the response begins after {first} of {len(ids)} tokens, beyond "
            f"--max-length {max_length}; raise it or shorten the prompt"
        )
    return Sample(tuple(ids[:max_length]), is_response, row.place)
