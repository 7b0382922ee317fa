"""Whether two model folders hold models of one kind, read off configs and tokenizers."""

import json
from pathlib import Path
from typing import Any

from ledmerge.errors import CheckpointError
from ledmerge.models.folder import ModelFolder

NAME_ONE = "say which one the result is to have: `tokenizer: {source: base}`, or union, or a model"
"""What to do where vocabularies differ."""


def differences(base: ModelFolder, model: ModelFolder, *, is_aligned: bool = False) -> list[str]:
    """What makes merging `model` into `base` wrong, one sentence each; empty if nothing does.

    Args:
        is_aligned: rows of tokens are brought together by token, so vocabularies may differ.
    """
    if model.home == base.home:
        return []
    found: list[str] = []
    for key in ("architectures", "model_type"):
        ours, theirs = base.config.get(key), model.config.get(key)
        if ours != theirs:
            found.append(f"{model.name} has {key} {theirs} but {base.name} has {ours}")
    return found if is_aligned else found + _vocabulary_differences(base, model)


def _vocabulary_differences(base: ModelFolder, model: ModelFolder) -> list[str]:
    """Tokens that have one id in one model and another id in the other."""
    is_told = base.has_tokenizer_json and model.has_tokenizer_json
    if not is_told or base.has_tokenizer_of(model):
        return []
    ours, theirs = (each.tokenizer_path / "tokenizer.json" for each in (base, model))
    token_by_id = {token_id: token for token, token_id in vocabulary(ours).items()}
    clashes = [
        (token_id, token_by_id[token_id], token)
        for token, token_id in vocabulary(theirs).items()
        if token_by_id.get(token_id, token) != token
    ]
    if not clashes:
        return []
    token_id, our_token, their_token = min(clashes)
    return [
        f"{len(clashes)} tokens differ between the tokenizers of {model.name} and {base.name}: id "
        f"{token_id} is {their_token!r} in one and {our_token!r} in the other; {NAME_ONE}"
    ]


def vocabulary(file: Path) -> dict[str, int]:
    """Token -> id, from a `tokenizer.json`.

    Raises:
        CheckpointError: the file cannot be read as one.
    """
    return vocabulary_of(read_tokenizer(file), file)


def read_tokenizer(file: Path) -> dict[str, Any]:
    """What a `tokenizer.json` holds.

    Raises:
        CheckpointError: the file is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(file, error) from error


def vocabulary_of(fields: dict[str, Any], file: Path) -> dict[str, int]:
    """Token -> id, from what `file` holds.

    Raises:
        CheckpointError: that is no tokenizer.
    """
    try:
        tokens = fields.get("model", {}).get("vocab", {})
        if isinstance(tokens, list):  # Unigram: (token, log-probability) in the order of ids
            tokens = {token: token_id for token_id, (token, _) in enumerate(tokens)}
        added = {token["content"]: token["id"] for token in fields.get("added_tokens", [])}
        return {**tokens, **added}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file}: not a tokenizer file ({error!r:.200}); fetch it again")
