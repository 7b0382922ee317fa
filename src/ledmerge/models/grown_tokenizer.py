"""A tokenizer with tokens of others added: the fields of its `tokenizer.json`."""

import copy
import json
from collections.abc import Sequence
from typing import Any

from ledmerge.errors import RecipeError
from ledmerge.models.token_text import SHOWN, form_of
from ledmerge.models.vocabulary import Vocabulary


def grow(
    ours: Vocabulary, others: Sequence[Vocabulary], more: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, int]]:
    """The fields of our tokenizer with all tokens of the others, and every token's id.

    Our tokens keep their ids; new ones follow after the highest, model by model in the order of
    their ids. A token that another has as an added one (a special token, mostly) is added as it is
    there; the others go into the tokenizer's own vocabulary, with the merges that lead to them
    (BPE) or their scores (Unigram).

    Args:
        more: tokens to be added as special ones that may be in no model.

    Raises:
        RecipeError: the tokenizers are of different kinds, or the library that runs them reads
            the result otherwise.
    """
    fields, ids = copy.deepcopy(ours.tokenizer), dict(ours.ids)
    next_id = max(ids.values(), default=-1) + 1
    added: list[dict[str, Any]] = []
    for other in others:
        own = {token["content"]: token for token in other.tokenizer.get("added_tokens", [])}
        regular = []
        for token in sorted(other.ids, key=other.ids.__getitem__):
            if token in ids:
                continue
            ids[token], next_id = next_id, next_id + 1
            if token in own:
                added.append({**own[token], "id": ids[token]})
            else:
                regular.append(token)
        if regular:
            _check_kinds(ours, other, len(regular))
            _add_regular(fields, other.tokenizer, regular, ids)
    for token in more:
        if token not in ids:
            ids[token], next_id = next_id, next_id + 1
            added.append({**_SPECIAL, "content": token, "id": ids[token]})
    if len(ids) == len(ours.ids):
        return ours.tokenizer, ids
    fields["added_tokens"] = [*fields.get("added_tokens", []), *added]
    _check(ours, fields, ids)
    return fields, ids


_SPECIAL = {
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}


def _check_kinds(ours: Vocabulary, other: Vocabulary, num_tokens: int) -> None:
    kinds = [each.tokenizer.get("model", {}).get("type") for each in (ours, other)]
    if kinds[0] != kinds[1]:
        raise RecipeError(
            f"tokenizer: the tokenizer of {ours.model.name} is {kinds[0]}, that of "
            f"{other.model.name} {kinds[1]}; {num_tokens:,} tokens of the one mean nothing to the "
            "other, so there is no union: use 'base' or a model"
        )
    forms = [form_of(each.tokenizer) for each in (ours, other)]
    if set(forms) == {"bytes", "pieces"}:
        raise RecipeError(
            f"tokenizer: the tokenizer of {ours.model.name} writes text as "
            f"{SHOWN[forms[0]]}, that of {other.model.name} as {SHOWN[forms[1]]}; the one never "
            f"cuts text into {num_tokens:,} tokens of the other, so there is no union: use 'base' "
            "or a model, where tokens that stand for the same text share a row"
        )


def _add_regular(
    fields: dict[str, Any], other: dict[str, Any], tokens: Sequence[str], ids: dict[str, int]
) -> None:
    """Tokens that text is cut into, with what leads to them."""
    model, theirs, new = fields["model"], other["model"], set(tokens)
    if isinstance(model["vocab"], list):  # Unigram: the place is the id
        scores = dict(theirs["vocab"])
        held = len(model["vocab"])
        following = sorted((place, token) for token, place in ids.items() if place >= held)
        model["vocab"] += [[token, scores.get(token, 0.0)] for _, token in following]
        return
    # Added tokens too: the library numbers those that the vocabulary lacks after its last.
    model["vocab"] |= ids
    prefix = model.get("continuing_subword_prefix") or ""
    pairs = [
        (first, second)
        for first, second in map(_pair, theirs.get("merges", []))
        if first + second.removeprefix(prefix) in new
    ]
    if pairs:
        model["merges"] = [list(map(str, _pair(merge))) for merge in model["merges"]]
        model["merges"] += [list(pair) for pair in pairs]


def _pair(merge: Any) -> tuple[str, str]:
    """Older files write the two parts of a merge as one text."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _check(ours: Vocabulary, fields: dict[str, Any], ids: dict[str, int]) -> None:
    """Raise unless the library that runs tokenizers gives every token its id."""
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_str(json.dumps(fields)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises nothing narrower
        raise RecipeError(
            f"tokenizer: the tokenizer of {ours.model.name} cannot take more tokens ({error})"
        ) from error
    wrong = sorted(
        token for token in ids.keys() | found.keys() if ids.get(token) != found.get(token)
    )
    if wrong:
        raise RecipeError(
            f"tokenizer: the tokenizer of {ours.model.name} numbers {len(wrong):,} tokens "
            f"otherwise once others are added, {wrong[0]!r} among them; add them "
            "to it by hand and name that model as the source"
        )
