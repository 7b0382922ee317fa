"""The tokens of a model, and the rows that its tensors have for them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledmerge.models.compatible import read_tokenizer, vocabulary_of
from ledmerge.models.folder import ModelFolder
from ledmerge.models.roles import has_token_rows, may_have_token_rows


@dataclass(frozen=True)
class Vocabulary:
    """What a model has for its tokens.

    Attributes:
        ids: token -> its row; rows that no token names are padding.
        num_rows: of every tensor in `tensors`.
        tensors: those with a row for each token.
        tokenizer: the fields of its `tokenizer.json`.
    """

    model: ModelFolder
    ids: dict[str, int]
    num_rows: int
    tensors: tuple[str, ...]
    tokenizer: dict[str, Any]

    def row(self, token: str) -> int:
        """The token's row; -1 where it has none."""
        place = self.ids.get(token, -1)
        return place if place < self.num_rows else -1


def read_vocabulary(
    model: ModelFolder, donor: Vocabulary | None, problems: list[str]
) -> Vocabulary | None:
    """The vocabulary of a model; None where what is wrong with it has been added to `problems`.

    Args:
        donor: whose tokenizer a model without `tokenizer.json` has, if it has as many rows.
    """
    found = list(_problems(model, donor))
    problems += found
    if found:
        return None
    file = model.tokenizer_path / "tokenizer.json"
    tensors = tuple(_tensors(model))
    num_rows = model.checkpoint.entries[tensors[0]].shape[0]
    if donor is not None and not file.is_file():
        return Vocabulary(model, donor.ids, num_rows, tensors, donor.tokenizer)
    fields = read_tokenizer(file)
    return Vocabulary(model, vocabulary_of(fields, file), num_rows, tensors, fields)


def _tensors(model: ModelFolder) -> list[str]:
    return [name for name in model.checkpoint.entries if has_token_rows(name)]


def _problems(model: ModelFolder, donor: Vocabulary | None) -> Iterator[str]:
    entries = model.checkpoint.entries
    sizes = {name: (*entries[name].shape, 0)[0] for name in _tensors(model)}
    if not sizes:
        yield f"tokenizer: {model.name} has no tensor that is known to have rows of tokens"
        return
    num_rows = next(iter(sizes.values()))
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"'{name}' {size:,}" for name, size in sizes.items())
        yield f"tokenizer: {model.name} has tensors with different numbers of rows: {listed}"
    file: Path = model.tokenizer_path / "tokenizer.json"
    if not file.is_file():
        if donor is None:
            yield f"tokenizer: {file.parent} has no tokenizer.json, which says what the rows are"
        elif donor.num_rows != num_rows:
            yield (
                f"tokenizer: {model.name} has {num_rows:,} rows and no tokenizer.json that says "
                f"what they are ({donor.model.name} has {donor.num_rows:,}); add it"
            )
    width = next(iter((*entries[name].shape[1:], 0)[0] for name in sizes))
    for name, entry in entries.items():
        # A toy as wide as its vocabulary would have every norm among these.
        is_as_long = num_rows in entry.shape and num_rows != width
        if (is_as_long or "embed_tokens" in name) and may_have_token_rows(name):
            yield (
                f"tokenizer: '{name}' in {model.name}, {entry.shape}, may have rows of tokens, but "
                "how it is to be aligned is not known; bring the models to one vocabulary first"
            )
