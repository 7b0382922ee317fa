"""Gives models whose output embedding is the input embedding one of their own, where others do."""

from collections.abc import Mapping
from typing import Any

from ledmerge.models.folder import ModelFolder
from ledmerge.models.named_view import NamedView
from ledmerge.models.roles import is_output_embedding, is_vocabulary

_KEY = "tie_word_embeddings"


def untie(models: Mapping[str, ModelFolder]) -> tuple[dict[str, ModelFolder], list[str]]:
    """The models, and the names of those that are seen with an output embedding of their own, for
    another has one; it is their input embedding.

    All stay as they are where that is the same in all, or is not clear.
    """
    heads = {reference: _own_head(model) for reference, model in models.items()}
    names = {head for head in heads.values() if head}
    inputs = {each: input_embedding(models[each]) for each, head in heads.items() if not head}
    if len(names) != 1 or not inputs or None in inputs.values():
        return dict(models), []
    (head,) = names
    seen = {
        reference: _with_head(model, head, embedding)
        if (embedding := inputs.get(reference))
        else model
        for reference, model in models.items()
    }
    return seen, list(dict.fromkeys(models[reference].name for reference in inputs))


def _own_head(model: ModelFolder) -> str | None:
    entries = model.checkpoint.entries
    own = [n for n in entries if is_output_embedding(n) and not model.repeats_input(n)]
    return own[0] if own else None


def input_embedding(model: ModelFolder) -> str | None:
    """The one tensor that a tied model turns tokens into vectors with; None if it is not clear."""
    if not model.is_tied:
        return None
    found = [
        name
        for name in model.checkpoint.entries
        if is_vocabulary(name) and not is_output_embedding(name)
    ]
    return found[0] if len(found) == 1 else None


def _with_head(model: ModelFolder, head: str, embedding: str) -> ModelFolder:
    names = {name: name for name in model.checkpoint.entries if not is_output_embedding(name)}
    names[head] = embedding
    return NamedView.of(model, _untied(model.config), names)


def _untied(config: dict[str, Any]) -> dict[str, Any]:
    made = {**config, _KEY: False}
    if isinstance(inner := config.get("text_config"), dict):
        made["text_config"] = {**inner, _KEY: False}
    return made
