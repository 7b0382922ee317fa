"""Whether the donor's tokenizer is the one that a recipe asks for."""

from collections.abc import Sequence
from typing import Any

from ledmerge.models.compatible import vocabulary
from ledmerge.models.folder import ModelFolder
from ledmerge.models.roles import is_vocabulary

NEEDED = "needs vocabularies to be aligned, which is not there yet; bring the models to one first"


def tokenizer_problems(
    source: str,
    tokens: dict[str, Any] | None,
    multiple: int | None,
    donor: ModelFolder,
    models: Sequence[ModelFolder],
) -> list[str]:
    """What of a recipe's `tokenizer` is more than keeping the donor's vocabulary.

    Args:
        source: "base", "union" or a model.
        tokens: where the embeddings of single tokens are to come from.
        multiple: what the number of rows is to be a multiple of.
    """
    found = []
    if source == "union":
        found += [
            f"tokenizer: the union of the tokens of {donor.name} and {model.name} {NEEDED}"
            for model in models
            if not _same_tokens(donor, model)
        ]
    elif source not in ("base", donor.reference):
        found.append(f"tokenizer: the tokenizer of {source} {NEEDED}, or use 'base' ({donor.name})")
    if tokens:
        found.append(f"tokenizer.tokens: {', '.join(tokens)}: {NEEDED}")
    for name, entry in donor.checkpoint.entries.items():
        if multiple and is_vocabulary(name) and entry.shape[0] % multiple:
            found.append(
                f"tokenizer.pad_to_multiple_of: '{name}' has {entry.shape[0]} rows, no multiple of "
                f"{multiple}; this {NEEDED}"
            )
    return found


def _same_tokens(donor: ModelFolder, model: ModelFolder) -> bool:
    ours, theirs = donor.tokenizer_path / "tokenizer.json", model.tokenizer_path / "tokenizer.json"
    if not (ours.is_file() and theirs.is_file()):  # without one, a model has the base's
        return True
    return ours.read_bytes() == theirs.read_bytes() or vocabulary(ours) == vocabulary(theirs)
