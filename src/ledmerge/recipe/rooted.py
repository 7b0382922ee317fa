"""A recipe with whole paths, so that it can lie anywhere."""

from collections.abc import Container
from pathlib import Path
from typing import Any

from ledmerge.methods._catalog import get_method
from ledmerge.recipe.read import find_path

_PLACES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("model", "base_model", "onto", "path", "lora"), ()),
    **dict.fromkeys(("data", "scores", "base_scores"), ()),
    **dict.fromkeys(("source", "tokenizer_source"), ("base", "union")),
    **dict.fromkeys(("template", "chat_template"), ("auto", "none")),
    "keep": ("base",),
}
"""Key of what may lie in a file or folder -> words that it may have instead."""


def rooted(fields: dict[str, Any], file: Path) -> dict[str, Any]:
    """What a recipe says, with whole paths for all that exists beside its file or here."""
    options = get_method(fields["merge_method"]).options.values()
    orders = {option.name for option in options if option.is_model_order}
    return {name: _rooted(value, name, orders, file) for name, value in fields.items()}


def _rooted(value: Any, key: str, orders: Container[str], file: Path) -> Any:
    """The value of a key; `orders` are options that name models."""
    if isinstance(value, dict):
        # The model of an entry of `keep` may be called base, as `keep` of a guard.
        names = {name: "keep" if (key, name) == ("keep", "model") else name for name in value}
        return {name: _rooted(each, names[name], orders, file) for name, each in value.items()}
    if isinstance(value, list):
        within = "model" if key in orders else key if key == "keep" else ""
        return [_rooted(each, within, orders, file) for each in value]
    is_place = isinstance(value, str) and value not in _PLACES.get(key, (value,))
    return _root(value, file) if is_place else value


def _root(text: str, file: Path) -> str:
    """A path that exists, whole; each part of `model+adapter`; anything else as it is."""
    if "\n" in text or "{" in text:  # a template, as it stands
        return text
    if (found := find_path(text, file.parent, str(file))).exists():
        return str(found.resolve())
    first, plus, second = text.partition("+")
    return f"{_root(first, file)}+{_root(second, file)}" if plus else text
