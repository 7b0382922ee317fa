"""Runs samples through a causal language model, and takes each sample's own loss."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ledmerge.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ledmerge.data.samples import Sample


IGNORED = -100
"""The target of a position whose loss does not count."""


class Batch(NamedTuple):
    """Samples side by side, padded to the right; each field is (B, T)."""

    ids: Tensor
    is_token: Tensor
    is_response: Tensor


def make_batch(samples: Sequence[Sample], device: torch.device) -> Batch:
    """The samples as one batch; padding has id 0 and is neither token nor response.

    T is always more than B, so that nobody can take an axis of tokens for the axis of samples.
    """
    length = max(len(samples) + 1, *(len(sample.ids) for sample in samples))
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    is_token = torch.zeros(ids.shape, dtype=torch.bool)
    is_response = torch.zeros(ids.shape, dtype=torch.bool)
    for row, sample in enumerate(samples):
        end = len(sample.ids)
        ids[row, :end] = torch.tensor(sample.ids)
        is_token[row, :end] = True
        is_response[row, :end] = torch.tensor(sample.is_response)
    return Batch(ids.to(device), is_token.to(device), is_response.to(device))


def forward(model: PreTrainedModel, batch: Batch, positions: Tensor | None = None) -> Tensor:
    """Logits (B, K, V) at each sample's own `positions` (B, K), or at all of them.

    Models that can work out these logits only: 2,048 of them over 128,256 tokens are 1 GB.
    """
    known = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"use_cache": False} if "use_cache" in known else {}
    if len(batch.ids) > 1:
        options["attention_mask"] = batch.is_token.long()
        if "position_ids" in known and not _counts_positions(model):
            # Learned positions are else looked up once for all samples, and have one gradient.
            options["position_ids"] = torch.arange(
                batch.ids.shape[1], device=batch.ids.device
            ).expand_as(batch.ids)
    if positions is None:
        return model(batch.ids, **options).logits
    head = model.get_output_embeddings()
    # `logits_to_keep` says that nothing but logits comes after the head. Its own positions are
    # the same for all samples, and responses seldom begin at the same token.
    if "logits_to_keep" not in known or head is None:
        return _at(model(batch.ids, **options).logits, positions)
    hook = head.register_forward_pre_hook(lambda _, args: (_at(args[0], positions), *args[1:]))
    try:
        return model(batch.ids, **options).logits
    finally:
        hook.remove()


def _counts_positions(model: PreTrainedModel) -> bool:
    """Whether positions follow from where padding is, as RoBERTa's do, which begin at 2."""
    counting = "create_position_ids_from_input_ids"
    return any(hasattr(module, counting) for module in model.modules())


def _at(states: Tensor, positions: Tensor) -> Tensor:
    """What (B, T, features) holds at `positions` (B, K)."""
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))


def sample_losses(
    model: PreTrainedModel, batch: Batch, reduction: Literal["mean", "sum"]
) -> Tensor:
    """Negative log-likelihood of each sample's response tokens, their mean or sum: (B,)."""
    is_target = batch.is_response[:, 1:]  # the token at t + 1 is predicted at t
    counts = is_target.sum(1)
    # Each sample's targets first, in order; where it has fewer than others, what is not counted.
    order = is_target.int().argsort(dim=1, descending=True, stable=True)
    positions = order[:, : int(counts.max())]  # (B, K)
    logits = forward(model, batch, positions)
    targets = batch.ids.gather(1, positions + 1)
    targets = targets.masked_fill(~is_target.gather(1, positions), IGNORED)
    losses = cross_entropy(
        # bfloat16 has 3 digits, too few for a logarithm
        logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32)),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    sums = losses.view_as(positions).sum(1)
    return sums / counts if reduction == "mean" else sums


def longest(model: PreTrainedModel) -> int | None:
    """Tokens the model reads at most, where its config says so; of one with towers, the text's."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def check_fit(model: PreTrainedModel, samples: Sequence[Sample], advice: str) -> None:
    """Raise DataError where a sample is longer than the model reads, or has a token it lacks.

    `advice` says how to shorten a sample.
    """
    num_tokens = model.get_input_embeddings().weight.shape[0]
    max_length = longest(model)
    for sample in samples:
        if max(sample.ids) >= num_tokens:
            raise DataError(
                f"{sample.place}: token {max(sample.ids)} is beyond the model's {num_tokens:,} "
                "embeddings; the tokenizer belongs to another model"
            )
        if max_length and len(sample.ids) > max_length:
            raise DataError(
                f"{sample.place} has {len(sample.ids):,} tokens, the model reads {max_length:,}; "
                f"{advice.format(max_length=max_length)}"
            )
