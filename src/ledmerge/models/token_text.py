"""The text that a token stands for, and tokens of one tokenizer by the names of another."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

from ledmerge.models.vocabulary import Vocabulary

Form = Literal["bytes", "pieces", "words"]
"""How a vocabulary writes text: a letter for each byte ("Ġthe", "Ċ": byte-level BPE), "▁" for a
space and `<0x0A>` for a byte (SentencePiece), or in ways of its own ("##ing" of WordPiece)."""

SHOWN = {"bytes": "'Ġthe', 'Ċ'", "pieces": "'▁the', '<0x0A>'"}
"""The texts " the" and a line's end, for messages."""

_BYTE = re.compile("<0x([0-9A-F]{2})>")


def form_of(tokenizer: Mapping[str, Any]) -> Form:
    """How the vocabulary of a `tokenizer.json` writes text, by what its parts do to spaces."""
    parts = [*_parts([tokenizer.get(key) for key in ("normalizer", "pre_tokenizer", "decoder")])]
    if any(part.get("type") == "ByteLevel" for part in parts):
        return "bytes"
    for part in parts:
        pattern = part.get("pattern")
        found = pattern.get("String") if isinstance(pattern, dict) else None
        if "▁" in (found, part.get("content"), part.get("prepend"), part.get("replacement")):
            return "pieces"
    return "words"


def named_like(model: Vocabulary, ours: Vocabulary) -> Vocabulary:
    """A model's vocabulary with its rows under our tokens that stand for the same text.

    Where both write text alike, or one of them in a way of its own, that is the model's vocabulary
    as it is. Else a token of which we have none keeps its name if we have no such token, and names
    its model otherwise.
    """
    forms = {form_of(each.tokenizer) for each in (model, ours)}
    if forms != {"bytes", "pieces"}:
        return model
    known = _by_text(ours)
    ids = {
        token: model.ids[own] for text, own in _by_text(model).items() if (token := known.get(text))
    }
    placed = set(ids.values())
    for token, row in model.ids.items():
        if row not in placed:
            ids[f"{token} ({model.model.name})" if token in ours.ids else token] = row
    return replace(model, ids=ids)


def _by_text(model: Vocabulary) -> dict[bytes, str]:
    """Text -> the token that stands for it; a letter goes before the byte that it is."""
    added = {token["content"] for token in model.tokenizer.get("added_tokens", [])}
    is_bytes = form_of(model.tokenizer) == "bytes"
    found: dict[bytes, str] = {}
    fallback: dict[bytes, str] = {}
    for token in model.ids:
        byte = None if is_bytes else _BYTE.fullmatch(token)
        if byte:
            fallback[bytes.fromhex(byte[1])] = token
        elif token in added or not is_bytes:
            text = token if token in added else token.replace("▁", " ")
            found.setdefault(text.encode(), token)
        elif _LETTERS.keys() >= set(token):
            found.setdefault(bytes(map(_LETTERS.__getitem__, token)), token)
    return {**fallback, **found}


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """All steps of a tokenizer, those inside others too."""
    if isinstance(value, list):
        for each in value:
            yield from _parts(each)
    elif isinstance(value, dict):
        yield value
        for key in ("normalizers", "pretokenizers", "decoders"):
            yield from _parts(value.get(key))


def _letters() -> dict[str, int]:
    """Letter -> byte, of byte-level BPE: those that print stand for themselves, the others follow
    one another from 256 on.
    """
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_LETTERS = _letters()
