"""Has a causal language model answer: greedy text, or the likelihood of given continuations."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledmerge.data.rows import Message
from ledmerge.data.samples import Sample
from ledmerge.data.template import render_prompt
from ledmerge.errors import DataError, NonFiniteError, TooLongError
from ledmerge.evals._question import Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Prompt:
    """What a model is to answer.

    Attributes:
        text: up to where the answer begins.
        has_special_tokens: the text spells its special tokens out, so the tokenizer adds none.
        place: where it comes from, for messages.
    """

    text: str
    has_special_tokens: bool
    place: str


@dataclass(frozen=True)
class Answering(ABC):
    """An opened model with its tokenizer; one subclass for each engine that runs models.

    Answers are taken in batches of prompts of like length. Which prompts share a batch follows from
    the prompts alone, so an interrupted run that goes on meets the same batches, and the same
    answers: with other batches, sums in another order may tip a near tie between two tokens.

    Attributes:
        template: of the prompts, as `ledmerge.data.template.render_prompt` takes it.
        ends: tokens that end a turn.
        longest: tokens the model reads at most, where it says so.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    ends: frozenset[int]
    longest: int | None

    def prompt(self, messages: tuple[Message, ...], place: str) -> Prompt:
        """The conversation so far in the chat template."""
        text, is_special = render_prompt(messages, self.tokenizer, self.template, place)
        return Prompt(text, is_special, place)

    def batches(self, prompts: Sequence[Prompt], size: int) -> list[list[int]]:
        """Places of the prompts that are answered together.

        Longest first: what does not fit in memory fails at once.
        """
        lengths = [len(self._ids(prompt)) for prompt in prompts]
        order = sorted(range(len(prompts)), key=lambda i: (-lengths[i], i))
        return [order[start : start + size] for start in range(0, len(order), size)]

    def room(self, prompts: Sequence[Prompt], wanted: int) -> int:
        """Tokens to answer each prompt in: `wanted`, or what is left beside the longest of them."""
        if not self.longest or not wanted:
            return wanted
        left = self.longest - max(len(self._ids(prompt)) for prompt in prompts)
        return max(1, min(wanted, left))

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Text]:
        """Greedy answers to one batch, without the tokens that end a turn.

        Raises:
            TooLongError: a prompt and its answer are longer than the model reads.
        """
        rows = [self._ids(prompt) for prompt in prompts]
        self._check(rows, prompts, max_new_tokens)
        return [
            self._text(tokens, max_new_tokens) for tokens in self._generate(rows, max_new_tokens)
        ]

    @abstractmethod
    def log_likelihoods(self, pairs: Sequence[tuple[Prompt, str]]) -> list[tuple[float, int]]:
        """(natural log-likelihood, number of tokens) of each continuation, in one batch.

        Raises:
            DataError: a text is longer than the model reads.
            NonFiniteError: a likelihood is NaN or infinite.
        """

    @abstractmethod
    def _generate(self, rows: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        """The most likely tokens after each row, up to one of `ends` or further."""

    def _ids(self, prompt: Prompt) -> list[int]:
        encoding = self.tokenizer(
            prompt.text, add_special_tokens=not prompt.has_special_tokens, verbose=False
        )
        # Nothing at all cannot be continued; a model's first token follows its beginning of text.
        return list(encoding["input_ids"]) or [self._first()]

    def _first(self) -> int:
        tokenizer = self.tokenizer
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
            if token is not None:
                return token
        raise DataError(f"{tokenizer.name_or_path}: no token begins or ends a text")

    def _continued(self, prompt: Prompt, choice: str) -> Sample:
        """The tokens of both, as the model meets them, and which of them belong to the choice."""
        text = prompt.text + choice
        encoding = self.tokenizer(
            text,
            add_special_tokens=not prompt.has_special_tokens,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        ids, is_added = list(encoding["input_ids"]), list(encoding["special_tokens_mask"])
        ends = [right for _, right in encoding["offset_mapping"]]
        if not prompt.text and ids and not is_added[0]:
            ids, is_added, ends = [self._first(), *ids], [1, *is_added], [0, *ends]
        # White space may have no length: Llama 3's offsets leave it out.
        start = len(prompt.text) or -1
        is_choice = [end > start and not added for end, added in zip(ends, is_added, strict=True)]
        is_choice[0] = False  # nothing comes before it
        if not any(is_choice):
            raise DataError(f"{prompt.place}: no token belongs to the choice {choice!r:.40}")
        return Sample(tuple(ids), tuple(is_choice), prompt.place)

    def _check(self, rows: list[list[int]], prompts: Sequence[Prompt], max_new_tokens: int) -> None:
        for row, prompt in zip(rows, prompts, strict=True):
            if self.longest and len(row) + max_new_tokens > self.longest:
                left = self.longest - len(row)
                lower = f", or set max_new_tokens of its benchmark to {left:,} at most"
                raise TooLongError(
                    f"{prompt.place} has {len(row):,} tokens; with {max_new_tokens:,} to answer "
                    f"that is more than the model reads, {self.longest:,}",
                    f"leave it out{lower if left > 0 else ''}",
                )

    def _text(self, tokens: list[int], max_new_tokens: int) -> Text:
        end = next((i for i, token in enumerate(tokens) if token in self.ends), len(tokens))
        # Cleaning up, which Llama 3's settings ask for, makes ''.join of ' '.join.
        text = self.tokenizer.decode(
            tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Text(text.strip(), is_cut=end >= max_new_tokens)


def turn_ends(tokenizer: PreTrainedTokenizerBase, eos_token_id: object) -> frozenset[int]:
    """Tokens that end a turn: the tokenizer's, and those of the model's generation settings."""
    own = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
    return frozenset({tokenizer.eos_token_id, *own} - {None})


def check_likelihoods(pairs: Sequence[tuple[Prompt, str]], found: Sequence[float]) -> None:
    """Raise NonFiniteError where a likelihood is none."""
    for (prompt, choice), value in zip(pairs, found, strict=True):
        if not math.isfinite(value):
            raise NonFiniteError(
                f"{prompt.place}: the likelihood of {choice!r:.40} is {value}; try a wider dtype"
            )
