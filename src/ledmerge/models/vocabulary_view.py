"""A model seen with the vocabulary of another, and scores of its weights in that order."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, Checkpoint
from ledmerge.checkpoint.gathered import Gathered
from ledmerge.models.alignment import Alignment, Givers
from ledmerge.models.folder import ModelFolder
from ledmerge.models.vocabulary import Vocabulary

_PADDING_ROWS = 1024
"""Rows read at once for their mean."""


@dataclass(frozen=True)
class VocabularyView(ModelFolder):
    """A model folder whose tensors have the rows of the result's tokens."""

    whole: ModelFolder | None = field(default=None, repr=False)
    shown: Checkpoint | None = field(default=None, repr=False, compare=False)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The tensors shown."""
        assert self.shown is not None
        return self.shown

    @property
    def original(self) -> ModelFolder:
        """See `ModelFolder.original`."""
        assert self.whole is not None
        return self.whole.original


def vocabulary_views(
    vocabularies: Mapping[str, Vocabulary], alignment: Alignment, keeper: str
) -> dict[str, ModelFolder]:
    """Every model, by reference, with the rows of the alignment.

    Args:
        keeper: the model whose mean row pads.
    """
    checkpoints = {name: each.model.checkpoint for name, each in vocabularies.items()}
    fill = _Fill(checkpoints, alignment.givers, keeper)
    views: dict[str, ModelFolder] = {}
    for name, each in vocabularies.items():
        model, rows = each.model, alignment.rows[name]
        shown = Gathered(model.checkpoint, each.tensors, rows, fill)
        parts = {each.name: getattr(model, each.name) for each in fields(ModelFolder)}
        views[name] = VocabularyView(**parts, whole=model, shown=shown)
    return views


def aligned_scores(
    scores: Checkpoint, vocabulary: Vocabulary, alignment: Alignment, reference: str
) -> Checkpoint:
    """A score set of a model whose rows follow the model's; rows that it lacks have score 0."""
    stored = vocabulary.model.checkpoint.entries
    # Of another shape they are another model's, and are refused for what they are.
    names = [
        name
        for name in vocabulary.tensors
        if name in scores.entries and scores.entries[name].shape == stored[name].shape
    ]

    def zeros(name: str, row: int) -> Tensor:
        return torch.zeros(stored[name].numel // stored[name].shape[0])

    return Gathered(scores, names, alignment.rows[reference], zeros)


class _Fill:
    """Rows that a model lacks, from those that have them; called from several threads."""

    def __init__(
        self, checkpoints: Mapping[str, Checkpoint], givers: Mapping[int, Givers], keeper: str
    ):
        self._checkpoints, self._givers, self._keeper = checkpoints, givers, keeper
        self._means: dict[str, Tensor] = {}
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Fill, (self._checkpoints, self._givers, self._keeper)

    def __call__(self, name: str, row: int) -> Tensor:
        givers = self._givers.get(row)
        if givers is None:
            return self._mean(name)
        rows = [_rows(self._checkpoints[giver], name, place, 1)[0] for giver, place in givers]
        if not rows:
            entry = self._checkpoints[self._keeper].entries[name]
            return torch.zeros(entry.numel // entry.shape[0])
        if len(rows) == 1:
            return rows[0].float()
        return (torch.stack(rows).double().sum(0) / len(rows)).float()

    def _mean(self, name: str) -> Tensor:
        """The mean of the keeper's rows. Zeros would be logits of 0, likelier than most tokens'."""
        with self._lock:
            if name not in self._means:
                checkpoint = self._checkpoints[self._keeper]
                total = checkpoint.entries[name].shape[0]
                sums: Any = 0.0
                for first in range(0, total, _PADDING_ROWS):
                    count = min(_PADDING_ROWS, total - first)
                    sums = sums + _rows(checkpoint, name, first, count).double().sum(0)
                self._means[name] = (sums / total).float()
            return self._means[name]


def _rows(checkpoint: Checkpoint, name: str, first: int, count: int) -> Tensor:
    """Rows of a tensor as stored, (row, entries of a row)."""
    entry = checkpoint.entries[name]
    width = entry.numel // entry.shape[0]
    rows = torch.empty(count * width, dtype=TORCH_DTYPES[entry.dtype])
    checkpoint.read_into(name, first * width, rows.view(torch.uint8).numpy().data)
    return rows.view(count, width)
