"""Rows of prompt and response, read from a user's file or from the hub."""

import csv
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ledmerge.errors import DataError, did_you_mean

Item = TypeVar("Item")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Row:
    """A conversation and the response to it.

    Attributes:
        messages: everything before the response; a plain prompt is one message of the user.
        response: never blank.
        place: where the row stands, counted from 1, for messages: "math.jsonl: row 7".
    """

    messages: tuple[Message, ...]
    response: str
    place: str


def read_rows(
    source: str | Path, prompt_field: str = "prompt", response_field: str = "response"
) -> list[Row]:
    """All rows of a file or of one split on the hub, in their order.

    A row without the prompt field may hold `messages` instead, a list of objects with `role` and
    `content`; the last one, from the assistant, is the response.

    Args:
        source: a `.jsonl`, `.json` (a list of objects, or an object with such a list as `data`),
            `.csv` or `.parquet` file, or `hub:NAME:SPLIT`.
        prompt_field: the field with the prompt, a string.
        response_field: the field with the response, a string.

    Raises:
        DataError: the source cannot be read or has no rows, or a row has no usable prompt or
            response; nothing is skipped.
    """
    return [
        _to_row(record, place, prompt_field, response_field)
        for place, record in read_records(source)
    ]


def read_records(source: str | Path) -> list[tuple[str, dict[str, Any]]]:
    """(place for messages, fields) of every row of a source, whatever its fields are called.

    Raises:
        DataError: the source cannot be read, has no rows, or a row has no named fields.
    """
    read = _read_hub if str(source).startswith("hub:") else _read_file
    records = read(str(source))
    if not records:
        raise DataError(f"{source} has no rows")
    placed = [(f"{source}: row {number}", record) for number, record in enumerate(records, 1)]
    for place, record in placed:
        if not isinstance(record, dict):
            raise DataError(f"{place} is {record!r:.40}, expected an object with named fields")
    return placed


def choose_rows(rows: Sequence[Item], samples: int, seed: int | str) -> list[Item]:
    """`samples` rows drawn without replacement, in file order; all rows when there are fewer.

    Rows are ranked by a hash of seed and index, so a choice outlives any library's generator, and
    a smaller choice is part of a larger one.
    """

    def rank(index: int) -> bytes:
        return blake2b(f"{seed}:{index}".encode()).digest()

    chosen = sorted(range(len(rows)), key=rank)[:samples]
    return [rows[index] for index in sorted(chosen)]


def rows_digest(rows: Sequence[Row]) -> str:
    """32 hex digits that identify messages and responses, in order, wherever they were read."""
    digest = blake2b(digest_size=16)
    for row in rows:
        turns = [(message.role, message.content) for message in row.messages]
        digest.update(json.dumps([turns, row.response]).encode())
    return digest.hexdigest()


def _read_hub(source: str) -> list[Any]:
    name, _, split = source.removeprefix("hub:").partition(":")
    if not name or not split:
        raise DataError(f"'{source}' should be hub:NAME:SPLIT, such as hub:user/name:train")
    datasets = _import_extra("datasets", "run pip install 'datasets>=2.19'")
    try:
        return list(datasets.load_dataset(name, split=split))
    except (OSError, ValueError) as error:
        raise DataError(f"{source} cannot be loaded: {error}") from error


def _read_file(source: str) -> list[Any]:
    path = Path(source)
    if not path.is_file():
        files = [file.name for file in path.parent.glob("*") if file.suffix.lower() in _READERS]
        raise DataError(f"{path} is not a file{did_you_mean(path.name, files)}")
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise DataError(f"{path}: '{suffix}' files are not read{did_you_mean(suffix, _READERS)}")
    try:
        return _READERS[suffix](path)
    except (OSError, ValueError, csv.Error) as error:  # broken JSON, UTF-8 or Parquet: ValueError
        raise DataError(f"{path} cannot be read: {error}") from error
    except RecursionError as error:
        raise DataError(f"{path} cannot be read: it is nested too deep") from error


def _read_jsonl(path: Path) -> list[Any]:
    records = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                records.append(json.loads(line.rstrip("\r\n")))
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(line.rstrip()) or error.msg.startswith("Unterminated")
                mend = "; each object stands on one line" if is_cut else ""
                raise ValueError(f"line {number}, {_wrong_json(error)}{mend}") from error
    return records


_LIKELY = {
    "Invalid control character": "a control character, probably a tab or a line break, which in a "
    "text is written \\t or \\n",
    "Unterminated string": "the text that begins here is not closed",
    "Invalid \\": "a backslash with a meaning that JSON does not know; itself it is written \\\\",
    "Expecting property name": "expected a name in double quotes",
    "Expecting value": "expected a value",
    "Extra data": "more after the object; expected one object, or a list of them in a .json",
}
"""How Python's complaint about JSON begins -> what it likely is."""


def _wrong_json(error: json.JSONDecodeError) -> str:
    likely = (words for start, words in _LIKELY.items() if error.msg.startswith(start))
    return f"column {error.colno}: {next(likely, error.msg)}"


def _read_json(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, {_wrong_json(error)}") from error
    records = content.get("data") if isinstance(content, dict) else content
    if not isinstance(records, list):
        raise ValueError("expected a list of objects, or an object with such a list as 'data'")
    return records


_LONGEST_CELL = 2**31 - 1
"""What Python's reader takes on every platform; its own limit is 131,072 characters."""


def _read_csv(path: Path) -> list[Any]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        return _read_cells(path)
    finally:
        csv.field_size_limit(before)


def _read_cells(path: Path) -> list[Any]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)  # else an open quote swallows the next rows
        names = list(filter(None, reader.fieldnames or ()))
        twice = [name for name in names if names.count(name) > 1]
        if twice:  # the reader would take the last
            raise ValueError(f"two columns are called '{twice[0]}'; rename one of them")
        records = []
        for record in reader:
            if None in record:  # an unquoted comma would cut the prompt short
                raise ValueError(f"line {reader.line_num} has more cells than the header")
            records.append(record)
    return records


def _read_parquet(path: Path) -> list[Any]:
    parquet = _import_extra("pyarrow.parquet", "run pip install 'pyarrow>=14'")
    return parquet.read_table(path).to_pylist()


_READERS: dict[str, Callable[[Path], list[Any]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _import_extra(module: str, mend: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{module} is missing; {mend}") from error


def _to_row(record: dict[str, Any], place: str, prompt_field: str, response_field: str) -> Row:
    if prompt_field not in record and "messages" in record:
        *messages, last = _to_messages(record["messages"], place)
        response = last.content
    else:
        messages = [Message("user", _text(record, prompt_field, place))]
        response = _text(record, response_field, place)
    if not any(message.content.strip() for message in messages):
        raise DataError(f"{place}: the prompt is empty")
    if not response.strip():
        raise DataError(f"{place}: the response is empty")
    return Row(tuple(messages), response, place)


def _to_messages(turns: Any, place: str) -> list[Message]:
    """At least one message; the last is from the assistant."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise DataError(
            f"{place}: field 'messages' is {turns!r:.40}, expected objects with role and content"
        )
    messages = []
    for number, turn in enumerate(turns, 1):
        where = f"{place}, message {number}"
        messages.append(Message(_text(turn, "role", where), _text(turn, "content", where)))
    roles = [message.role for message in messages]
    if roles[-1:] != ["assistant"]:
        raise DataError(f"{place}: the roles are {roles}, expected 'assistant' as the last")
    return messages


def _text(record: dict[str, Any], field: str, place: str) -> str:
    if field not in record:
        raise DataError(f"{place}: field '{field}' is missing{did_you_mean(field, record)}")
    value = record[field]
    if not isinstance(value, str):
        raise DataError(f"{place}: field '{field}' is {value!r:.40}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON's "\ud83d" alone; no tokenizer takes it
        raise DataError(f"{place}: field '{field}' holds half a character: {error}") from error
    return value
