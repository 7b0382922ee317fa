"""Has a causal language model answer: greedy text, or the likelihood of given continuations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ledmerge.data.rows import Message
from ledmerge.data.samples import Sample
from ledmerge.data.template import render_prompt
from ledmerge.errors import DataError, NonFiniteError
from ledmerge.models.folder import ModelFolder
from ledmerge.models.loading import open_model
from ledmerge.models.loss import check_fit, make_batch, sample_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
class Answering:
    """An opened model with its tokenizer.

    Answers are taken in batches of prompts of like length. Which prompts share a batch follows from
    the prompts alone, so an interrupted run that goes on meets the same batches, and the same
    answers: with other batches, sums in another order may tip a near tie between two tokens.

    Attributes:
        template: of the prompts, as `ledmerge.data.template.render_prompt` takes it.
        ends: tokens that end a turn.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: str
    ends: frozenset[int]

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

    @torch.no_grad()
    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[str]:
        """Greedy answers to one batch, without the tokens that end a turn.

        Raises:
            DataError: a prompt and its answer are longer than the model reads.
        """
        from transformers import GenerationConfig

        rows = [self._ids(prompt) for prompt in prompts]
        self._check(rows, prompts, max_new_tokens)
        length = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        pad = pad if pad is not None else min(self.ends, default=0)
        ids = torch.full((len(rows), length), pad)  # (B, T), padded on the left
        is_token = torch.zeros(ids.shape, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, length - len(row) :] = torch.tensor(row)
            is_token[i, length - len(row) :] = 1
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(self.ends) or None,
            pad_token_id=pad,
        )
        device = self.model.device
        output = self.model.generate(
            ids.to(device), attention_mask=is_token.to(device), generation_config=settings
        )
        return [self._text(row) for row in output[:, length:].tolist()]

    @torch.no_grad()
    def log_likelihoods(self, pairs: Sequence[tuple[Prompt, str]]) -> list[tuple[float, int]]:
        """(natural log-likelihood, number of tokens) of each continuation, in one batch.

        Raises:
            DataError: a text is longer than the model reads.
        """
        samples = [self._continued(prompt, choice) for prompt, choice in pairs]
        check_fit(self.model, samples, "shorten it")
        losses = sample_losses(self.model, make_batch(samples, self.model.device), "sum")
        for pair, loss in zip(pairs, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                raise NonFiniteError(
                    f"{pair[0].place}: the likelihood of {pair[1]!r:.40} is {-loss}; try a wider "
                    "dtype"
                )
        counts = [sum(sample.is_response) for sample in samples]
        return [(-loss, count) for loss, count in zip(losses.tolist(), counts, strict=True)]

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
            verbose=False,
        )
        ids, spans = list(encoding["input_ids"]), list(encoding["offset_mapping"])
        if not prompt.text and spans and spans[0][0] < spans[0][1]:
            ids, spans = [self._first(), *ids], [(0, 0), *spans]
        start = len(prompt.text)
        is_choice = [left < right and right > start for left, right in spans]
        is_choice[0] = False  # nothing comes before it
        if not any(is_choice):
            raise DataError(f"{prompt.place}: no token belongs to the choice {choice!r:.40}")
        return Sample(tuple(ids), tuple(is_choice), prompt.place)

    def _check(self, rows: list[list[int]], prompts: Sequence[Prompt], max_new_tokens: int) -> None:
        most = getattr(self.model.config, "max_position_embeddings", None)
        for row, prompt in zip(rows, prompts, strict=True):
            if most and len(row) + max_new_tokens > most:
                raise DataError(
                    f"{prompt.place} has {len(row):,} tokens; with {max_new_tokens:,} to answer "
                    f"that is more than the model reads, {most:,}; set max_new_tokens lower"
                )

    def _text(self, tokens: list[int]) -> str:
        end = next((i for i, token in enumerate(tokens) if token in self.ends), len(tokens))
        return self.tokenizer.decode(tokens[:end], skip_special_tokens=True).strip()


def open_answering(
    folder: ModelFolder,
    template: str,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
) -> Answering:
    """The model, ready to answer.

    Of its own generation settings only the tokens that end a turn count: two models are compared by
    their weights.

    Raises:
        CheckpointError: as `open_model`.
        NonFiniteError: a weight is NaN or infinite, and so would be every answer.
    """
    from transformers import GenerationConfig

    model, tokenizer = open_model(folder, dtype, device, trust_remote_code)
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise NonFiniteError(
                f"{folder.path}: '{name}' holds NaN or infinite values in {dtype}; mend the "
                "checkpoint, or try a wider dtype"
            )
    own = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    # transformers takes from here whatever a call leaves at its default, penalties among them.
    model.generation_config = GenerationConfig()
    return Answering(model, tokenizer, template, frozenset(ends))
