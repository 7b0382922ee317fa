"""A model, opened and checked, with the samples it is scored on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ledmerge.data.samples import Sample, make_samples
from ledmerge.data.template import template_text
from ledmerge.errors import CheckpointError, NonFiniteError
from ledmerge.models.gradients import checkpoint_names, distinct_parameters, open_for_gradients
from ledmerge.models.loss import check_fit
from ledmerge.run.score_question import ScoreQuestion

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ScoredModel:
    """What a pass over the samples needs.

    Attributes:
        parameters: each parameter once, under transformers' name for it.
        shapes: the tensors they are stored as, in the order of the checkpoint.
        ties: other names of shared parameters -> the names they are stored under.
        template: the text of the chat template in use, "" for plain.
    """

    model: PreTrainedModel
    samples: list[Sample]
    parameters: dict[str, nn.Parameter]
    shapes: dict[str, tuple[int, ...]]
    ties: dict[str, str]
    template: str


def open_scored_model(
    question: ScoreQuestion,
    device: torch.device,
    *,
    trust_remote_code: bool,
    allow_nonfinite: bool,
) -> ScoredModel:
    """The model of a question; whatever can be wrong before the first sample is found here."""
    folder, settings, stored = question.folder, question.settings, question.folder.checkpoint
    dtype = getattr(torch, settings.dtype)
    model, tokenizer = open_for_gradients(folder, dtype, device, trust_remote_code)
    samples = make_samples(question.rows, tokenizer, settings.template, settings.max_length)
    check_fit(model, samples, "set --max-length {max_length}")
    parameters, ties = distinct_parameters(model, stored)
    if not allow_nonfinite:
        _check_weights(question, parameters)
    meta = {name: parameter.detach().to("meta") for name, parameter in parameters.items()}
    names = checkpoint_names(model, meta, stored)
    shapes = {name: entry.shape for name, entry in stored.entries.items() if name in names}
    _check_reference(question, shapes)
    return ScoredModel(
        model=model,
        samples=samples,
        parameters=parameters,
        shapes=shapes,
        ties={
            alias: next(iter(checkpoint_names(model, {kept: meta[kept]}, stored)))
            for alias, kept in ties.items()
        },
        template=template_text(tokenizer, settings.template),
    )


def _check_weights(question: ScoreQuestion, parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        if not torch.isfinite(parameter).all():
            raise NonFiniteError(
                f"'{name}' in {question.folder.path}, as {question.settings.dtype}, holds NaN or "
                "infinite weights; mend the checkpoint, or pass --allow-nonfinite"
            )


def _check_reference(question: ScoreQuestion, shapes: dict[str, tuple[int, ...]]) -> None:
    if question.reference is None:
        return
    entries = question.reference.checkpoint.entries
    for name, shape in shapes.items():
        found = entries[name].shape if name in entries else "absent"
        if found != shape:
            raise CheckpointError(
                f"'{name}' is {shape} in {question.folder.path} but {found} in the reference "
                f"{question.reference.path}; expected a model of the same family"
            )
