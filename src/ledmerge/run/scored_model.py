"""A model, opened and checked, with the samples it is scored on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.data.samples import Sample, make_samples
from ledmerge.data.template import template_text
from ledmerge.errors import CheckpointError, NonFiniteError
from ledmerge.models.gradients import checkpoint_names, distinct_parameters, open_for_gradients
from ledmerge.models.inputs import linear_weights
from ledmerge.models.loss import check_fit
from ledmerge.run.score_question import ScoreQuestion

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ScoredModel:
    """What a pass over the samples needs.

    Attributes:
        parameters: each parameter once, under transformers' name for it.
        sums: what is summed up for each parameter that has scores, as tensors without storage.
        shapes: the tensors the scores are stored as, in the order of the checkpoint.
        ties: other names of shared parameters -> the names they are stored under.
        template: the text of the chat template in use, "" for plain.
        stored: the checkpoint whose names scores have.
        grams: parameters -> the names their Gram matrices are stored under, if these are asked for.
    """

    model: PreTrainedModel
    samples: list[Sample]
    parameters: dict[str, nn.Parameter]
    sums: dict[str, Tensor]
    shapes: dict[str, tuple[int, ...]]
    ties: dict[str, str]
    template: str
    stored: Checkpoint
    grams: dict[str, list[str]] = field(default_factory=dict)

    def as_stored(self, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums keyed by parameter, in the names and the layout of the checkpoint."""
        if not self.grams:
            return checkpoint_names(self.model, totals, self.stored)
        return {stored: totals[name] for name in totals for stored in self.grams[name]}


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
    sums, grams = meta, {}
    if question.rule.NEEDS == "products":
        linear = linear_weights(model, parameters)
        grams = {name: [*checkpoint_names(model, {name: meta[name]}, stored)] for name in linear}
        sums = {name: meta[name].new_empty([meta[name].shape[1]] * 2) for name in linear}
        found = {name: tuple(sums[kept].shape) for kept in linear for name in grams[kept]}
    else:
        found = {n: tuple(t.shape) for n, t in checkpoint_names(model, meta, stored).items()}
    shapes = {name: found[name] for name in stored.entries if name in found}
    _check_reference(question, shapes)
    return ScoredModel(
        model=model,
        samples=samples,
        parameters=parameters,
        sums=sums,
        shapes=shapes,
        ties={
            alias: next(iter(checkpoint_names(model, {kept: meta[kept]}, stored)))
            for alias, kept in ties.items()
        },
        template=template_text(tokenizer, settings.template),
        stored=stored,
        grams=grams,
    )


def _check_weights(question: ScoreQuestion, parameters: dict[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        if not torch.isfinite(parameter).all():
            raise NonFiniteError(
                f"'{name}' in {question.folder.path}, as {question.settings.dtype}, holds NaN or "
                "infinite weights; mend the checkpoint, or run it again with --resume "
                "--allow-nonfinite"
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
