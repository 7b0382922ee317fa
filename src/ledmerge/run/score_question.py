"""What is asked of `locate`: every input that decides the scores, read and digested."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ledmerge.checkpoint.digest import cached_checkpoint_digest, digest_text
from ledmerge.checkpoint.header import FLOAT_DTYPES
from ledmerge.data.rows import Row, choose_rows, read_rows, rows_digest
from ledmerge.data.samples import Sample
from ledmerge.data.template import template_content
from ledmerge.errors import DataError, RecipeError
from ledmerge.models.find import find_model
from ledmerge.models.folder import ModelFolder
from ledmerge.models.layer_view import own_tensors
from ledmerge.models.roles import is_input_embedding
from ledmerge.models.unmade import Unmade
from ledmerge.recipe.settings import LocateSettings
from ledmerge.scores._catalog import load_rule, requests

FORMAT = 2
"""Raised when the same question would get other scores, or the same scores another form."""


ModelLike = str | Path | ModelFolder
"""A model by path or hub id, or one already found."""

_DECISIVE = {"score", "seed", "loss", "max_length", "dtype", "batch"}


@dataclass(frozen=True)
class ScoreQuestion:
    """One model, one set of rows, one rule."""

    folder: ModelFolder
    settings: LocateSettings
    data: str | None
    rows: list[Row]
    reference: ModelFolder | None
    ranks: int = 1
    """Processes that sum up the samples together: their number decides the order of sums."""

    @property
    def memory(self) -> int:
        """Bytes to answer it in one pass: weights and float32 sums, no activations."""
        entries = self.folder.checkpoint.entries
        own = [entries[name] for name in own_tensors(self.folder)]
        weights = [entry for entry in own if entry.dtype in FLOAT_DTYPES]
        are_grams = self.rule.NEEDS == "products"
        sums = sum(score_numel(w.name, w.shape, are_grams=are_grams) for w in weights)
        item_size = getattr(torch, self.settings.dtype).itemsize
        return sum(w.numel for w in weights) * item_size + sums * 4

    @property
    def shortage(self) -> str | None:
        """What to tell of data that has fewer rows than were to be drawn."""
        found, asked = len(self.rows), self.settings.samples
        if not self.rows or found >= asked:
            return None
        return (
            f"{self.data} has {found:,} rows, fewer than the {asked:,} samples asked for; all are "
            "used"
        )

    @property
    def rule(self) -> ModuleType:
        """The attribution rule's module."""
        return load_rule(self.settings.score)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything that decides the scores, by content; paths and names do not count."""
        reference = self.reference
        # Sets of float32 keep the keys they had before there were others.
        apart = {"template", "checkpointing"}
        if self.settings.store == "float32":
            apart.add("store")
        return {
            "format": FORMAT,
            "model": _weights(self.folder),
            "config": self.folder.config,
            "tokenizer": self.folder.tokenizer_digest(),
            "rows": rows_digest(self.rows),
            "template": template_content(self.settings.template),
            "settings": self.settings.model_dump(exclude=apart),
            "reference": _weights(reference) if reference else None,
            **self._ranks,
        }

    @property
    def _ranks(self) -> dict[str, int]:
        # Sets of one process keep the keys they had before there were others.
        return {"ranks": self.ranks} if self.ranks > 1 else {}

    @property
    def key(self) -> str:
        """Hex digest of `facts`."""
        return digest_text(json.dumps(self.facts, sort_keys=True))

    def provenance(
        self, samples: Sequence[Sample] = (), template: str = "", ties: Mapping[str, str] = {}
    ) -> dict[str, Any]:
        """What is written beside the scores: the question, and what came of it.

        `template` is the text that was used; `ties` are other names of scored tensors -> the names
        they are scored under.
        """
        facts, settings, reference = self.facts, self.settings, self.reference
        return {
            "format": FORMAT,
            "key": self.key,
            "model": {"name": self.folder.name, "digest": facts["model"]},
            "reference": reference and {"name": reference.name, "digest": facts["reference"]},
            "tokenizer": facts["tokenizer"],
            "data": {"name": self.data, "rows": facts["rows"]},
            "template": {"name": settings.template, "digest": digest_text(template)},
            "samples": {"asked": settings.samples, "used": len(samples)},
            "tokens": sum(len(sample.ids) for sample in samples),
            "response_tokens": sum(sum(sample.is_response) for sample in samples),
            **settings.model_dump(include=_DECISIVE),
            "stored": settings.store,
            **self._ranks,
            "ties": dict(ties),
            "versions": {name: version(name) for name in ("ledmerge", "torch", "transformers")},
        }


def _weights(model: ModelFolder) -> str:
    """Digest of the weights; of a model still to be made, about which nothing can be located yet,
    the name that its recipe has.
    """
    if isinstance(model, Unmade):
        return f"to be made: {model.reference}"
    return cached_checkpoint_digest(model.checkpoint)


def score_numel(name: str, shape: tuple[int, ...], *, are_grams: bool) -> int:
    """Entries of one weight's scores; for Gram matrices an estimate from above."""
    if not are_grams:
        return math.prod(shape)
    is_linear = len(shape) == 2 and not is_input_embedding(name)
    return shape[1] ** 2 if is_linear else 0


def read_question(
    model: ModelLike,
    data: str | Path | None,
    settings: LocateSettings,
    reference: ModelLike | None = None,
) -> ScoreQuestion:
    """The question, with its files found and its rows chosen; no model is opened.

    Raises:
        RecipeError: the rule is not known, or is given a reference it does not want, or none; or
            its answer cannot be stored as asked.
        DataError: the rule needs data and has none.
    """
    rule = load_rule(settings.score)
    wants_reference = "reference" in requests(rule)
    if wants_reference != (reference is not None):
        need = (
            "needs the model that this one was tuned from; name it with --reference"
            if wants_reference
            else "takes no reference model; leave out --reference"
        )
        raise RecipeError(f"score '{settings.score}' {need}")
    if rule.NEEDS == "products" and settings.store == "codes":
        raise RecipeError(
            f"store: found 'codes', but score '{settings.score}' gives matrices that are computed "
            "with, and codes are ranks alone; expected 'float32', or another score"
        )
    rows = []
    if rule.NEEDS != "nothing":
        if data is None:
            raise DataError(f"score '{settings.score}' needs data; name a file of rows with --data")
        rows = read_rows(data, settings.prompt_field, settings.response_field)
        rows = choose_rows(rows, settings.samples, settings.seed)
    return ScoreQuestion(
        folder=find_model(model),
        settings=settings,
        data=_data_name(data) if rows else None,
        rows=rows,
        reference=find_model(reference) if reference is not None else None,
    )


def _data_name(data: str | Path | None) -> str:
    return str(data) if str(data).startswith("hub:") else Path(str(data)).name
