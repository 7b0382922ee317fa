"""What leaves this machine names folders and files by their last part, not by where they lie."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def last_parts(*trees: Any) -> dict[str, str]:
    """Every whole path in some trees of JSON -> its last part, or as many as no other path ends in.

    A whole path begins at the root or with `~/`, with two names or more: one alone may be
    a token, and tells nothing.
    """
    texts = (text for tree in trees for text in _texts(tree))
    paths = {
        path: _expanded(path).parts[1:]
        for text in texts
        for path in _split(text)
        if _is_whole(path)
    }
    return {path: _short(names, paths.values()) for path, names in paths.items()}


def without_paths(tree: Any, short: Mapping[str, str]) -> Any:
    """A tree of JSON with what `last_parts` gives for the paths in it, in keys too."""
    if isinstance(tree, dict):
        return {without_paths(key, short): without_paths(each, short) for key, each in tree.items()}
    if isinstance(tree, list):
        return [without_paths(each, short) for each in tree]
    if isinstance(tree, str):
        return "+".join(short.get(path, path) for path in _split(tree))
    return tree


def text_without_paths(text: str, short: Mapping[str, str]) -> str:
    """A text with what `last_parts` gives for the paths in it; a URL that ends like one stays."""
    for path in sorted(short, key=len, reverse=True):
        text = re.sub(rf"(?<![\w/.:~-]){re.escape(path)}", lambda _, path=path: short[path], text)
    return text


def _texts(tree: Any) -> Iterable[str]:
    if isinstance(tree, dict):
        for key, each in tree.items():
            yield from (key, *_texts(each))
    elif isinstance(tree, list):
        for each in tree:
            yield from _texts(each)
    elif isinstance(tree, str):
        yield tree


def _split(text: str) -> list[str]:
    """The parts of MODEL+ADAPTER; anything else is one."""
    is_one = "+" not in text or (_is_whole(text) and _expanded(text).exists())
    return [text] if is_one else text.split("+")


def _is_whole(path: str) -> bool:
    return path.startswith(("/", "~/")) and "\n" not in path and len(Path(path).parts) > 2


def _expanded(path: str) -> Path:
    return Path.home() / path[2:] if path.startswith("~/") else Path(path)


def _short(names: tuple[str, ...], all_names: Iterable[tuple[str, ...]]) -> str:
    others = [each for each in all_names if each != names]
    for count in range(1, len(names)):
        if not any(each[-count:] == names[-count:] for each in others):
            return "/".join(names[-count:])
    return "/".join(names)
