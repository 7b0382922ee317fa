"""Answers of a model that transformers runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ledmerge.models.answering import Answering, Prompt, check_likelihoods, turn_ends
from ledmerge.models.folder import ModelFolder
from ledmerge.models.loading import check_finite, open_model
from ledmerge.models.loss import check_fit, longest, make_batch, sample_losses

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TransformersAnswering(Answering):
    """A model in this process, its answers padded into one batch."""

    model: PreTrainedModel

    @torch.no_grad()
    def log_likelihoods(self, pairs: Sequence[tuple[Prompt, str]]) -> list[tuple[float, int]]:
        """See `Answering.log_likelihoods`."""
        samples = [self._continued(prompt, choice) for prompt, choice in pairs]
        check_fit(self.model, samples, "shorten it")
        losses = sample_losses(self.model, make_batch(samples, self.model.device), "sum")
        check_likelihoods(pairs, [-loss for loss in losses.tolist()])
        counts = [sum(sample.is_response) for sample in samples]
        return [(-loss, count) for loss, count in zip(losses.tolist(), counts, strict=True)]

    @torch.no_grad()
    def _generate(self, rows: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        from transformers import GenerationConfig

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
        return output[:, length:].tolist()


def open_transformers(
    folder: ModelFolder,
    template: str,
    dtype: torch.dtype,
    device: torch.device,
    trust_remote_code: bool = False,
) -> TransformersAnswering:
    """The model in this process; see `backend.open_answering`."""
    from transformers import GenerationConfig

    model, tokenizer = open_model(folder, dtype, device, trust_remote_code)
    check_finite(folder, model.named_parameters())
    ends = turn_ends(tokenizer, model.generation_config.eos_token_id)
    # transformers takes from here whatever a call leaves at its default, penalties among them.
    model.generation_config = GenerationConfig()
    return TransformersAnswering(tokenizer, template, ends, longest(model), model)
