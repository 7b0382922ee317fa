"""HarmBench's own files: test cases, what a model answered to them, and the behaviors behind them.

Source: https://github.com/centerforaisafety/HarmBench, docs/evaluation_pipeline.md.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ledmerge.errors import DataError

CONTEXT_END = "\n\n---\n\n"
"""Between a behavior's context and the behavior itself, where both are asked as one message."""


class Behavior(NamedTuple):
    """What an answer is judged by; an attack that is to bring it about may read quite differently.

    Attributes:
        text: what the answer should not do.
        context: what it refers to, such as a text to go on with; empty without.
    """

    text: str
    context: str = ""

    @property
    def message(self) -> str:
        """Both in one text, as HarmBench asks them outright."""
        return f"{self.context}{CONTEXT_END}{self.text}" if self.context else self.text


class Completion(NamedTuple):
    """What a model answered to one test case."""

    behavior_id: str
    test_case: str
    generation: str


def read_completions(path: Path) -> list[Completion]:
    """The completions of `{behavior id: [{"test_case": ..., "generation": ...}]}`, in order.

    Raises:
        DataError: the file cannot be read, or has another form.
    """
    found = []
    for behavior_id, entries in _read(path).items():
        for place, entry in enumerate(entries):
            where = f"{path}: '{behavior_id}'[{place}]"
            if not isinstance(entry, dict):
                raise DataError(
                    f"{where} is {entry!r:.80}, expected an object with 'test_case' and "
                    "'generation'; is it a file of test cases?"
                )
            texts = [_text(entry.get(name), f"{where}.{name}") for name in Completion._fields[1:]]
            found.append(Completion(behavior_id, *texts))
    return found


def completions_json(completions: Iterable[tuple[str, str, str]]) -> str:
    """The file that `read_completions` and HarmBench read, of (behavior id, test case, generation).

    Behaviors stand in the order of their first completions.
    """
    entries: dict[str, list[dict[str, str]]] = {}
    for behavior_id, test_case, generation in completions:
        entry = {"test_case": test_case, "generation": generation}
        entries.setdefault(behavior_id, []).append(entry)
    return json.dumps(entries, indent=4) + "\n"


def read_test_cases(path: Path) -> dict[str, list[str]]:
    """The test cases of `{behavior id: [test case, ...]}`.

    Raises:
        DataError: the file cannot be read, or has another form.
    """
    return {
        behavior_id: [
            _text(entry, f"{path}: '{behavior_id}'[{place}]") for place, entry in enumerate(entries)
        ]
        for behavior_id, entries in _read(path).items()
    }


def is_test_cases(path: Path) -> bool:
    """Whether a JSON file is an object, and not one that holds its rows as `data`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and "data" not in found


def _read(path: Path) -> dict[str, list[Any]]:
    """An object of lists."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise DataError(f"{path}: '{name}' stands there twice; join the two")
            found[name] = value
        return found

    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object of behavior ids, found {found!r:.80}")
    for behavior_id, entries in found.items():
        if not isinstance(entries, list):
            raise DataError(f"{path}: '{behavior_id}' is {entries!r:.80}, expected a list")
    return found


def _text(value: Any, where: str) -> str:
    if isinstance(value, list):
        raise DataError(
            f"{where} is {value!r:.80}, expected a text; images cannot be asked, leave it out"
        )
    if not isinstance(value, str):
        raise DataError(f"{where} is {value!r:.80}, expected a text")
    check_characters(value, where)
    return value


def check_characters(text: str, where: str) -> None:
    """Raise DataError where a text holds half a character, as JSON can write one: no
    tokenizer takes it, and no file.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half a character: {error}") from error
