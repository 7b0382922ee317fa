"""What is wrong with a file's form, in plain words; pydantic's own speak of Python."""

from collections.abc import Callable
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel

from ledmerge.errors import did_you_mean
from ledmerge.methods._catalog import Option, get_method, method_names
from ledmerge.methods.adapters._catalog import adapter_method_names, get_adapter_method
from ledmerge.recipe.schema import ModelEntry

_EXPECTED = {
    "string_type": "text",
    "string_too_short": "text",
    "string_pattern_mismatch": "a name of the form {pattern}",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "literal_error": "{expected}",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "`name: value`",
}
"""Type of a problem -> what should stand there."""
_LONGEST = 80
"""Letters shown of a value."""


def describe(problem: Any, schema: type[BaseModel], place: Callable[[str], str]) -> str:
    """One of pydantic's problems, in one line.

    Args:
        problem: an entry of `ValidationError.errors()`.
        schema: what was asked for.
        place: turns a dotted path into the message's opening.
    """
    kind, found = problem["type"], problem["input"]
    *parents, last = problem["loc"] or ("",)
    path, whole = place(_dotted(parents)), place(_dotted([*parents, last]))
    if kind == "extra_forbidden":
        here = _schema_at(schema, parents)
        if "parameters" in here.model_fields and (uses := _options_called(str(last))):
            is_common = issubclass(here, ModelEntry) and not any(use.is_per_model for use in uses)
            own = "the recipe's own " if is_common else ""
            return f"{path}: '{last}' is an option of the method; write it under {own}`parameters:`"
        return f"{path}: '{last}' is not known{did_you_mean(str(last), here.model_fields)}"
    if kind == "missing" and isinstance(last, int):  # of the two numbers of a `layer_range`
        return f"{path}: expected 2 entries, found {len(found)}"
    if kind == "missing":
        return f"{path}: '{last}' is missing"
    if kind == "too_short":
        what = str(last)[:-1] if str(last).endswith("s") else "entry"
        return f"{whole}: lists no {what}"
    if kind == "too_long":
        return f"{whole}: expected {problem['ctx']['max_length']} entries, found {len(found)}"
    if last == "[key]":  # pydantic's word for the key itself
        whole = path
    if kind == "invalid_key":
        whole = place(_dotted([*parents, str(last)]))
    if kind == "model_type":
        return f"{whole}: {_not_keys(_schema_at(schema, [*parents, last]), last, found)}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    if kind in _EXPECTED:
        limits = {name: _as_written(limit) for name, limit in problem.get("ctx", {}).items()}
        message = f"expected {_EXPECTED[kind].format_map(limits)}"
    return f"{whole}: {message}, found {_shown(found)}"


def _options_called(name: str) -> list[Option]:
    """The options of that name, whatever the method."""
    methods = [
        *map(get_method, method_names()),
        *map(get_adapter_method, adapter_method_names()),
    ]
    return [method.options[name] for method in methods if name in method.options]


def _not_keys(schema: type[BaseModel], last: str | int, found: Any) -> str:
    """That a mapping should stand where something else does; a text may be meant as its one value.

    Args:
        last: key, or number in a list, of what was found.
    """
    needed = [name for name, field in schema.model_fields.items() if field.is_required()]
    keys = needed or list(schema.model_fields)[:1]
    quoted = " and ".join(f"'{key}:'" for key in keys)
    said = f"expected keys such as {quoted}, found {_shown(found)}"
    is_text = len(needed) == 1 and schema.model_fields[needed[0]].annotation is str
    if not (isinstance(found, str) and is_text):
        return said
    pair = f"{keys[0]}: {found}"
    meant = f"- {pair}" if isinstance(last, int) else f"{last}: {{{pair}}}"
    return f"{said}; write `{meant}`"


def _as_written(limit: Any) -> Any:
    """1.0 as 1."""
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _shown(value: Any) -> str:
    """A value as a message has it."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _schema_at(schema: type[BaseModel], parts: list[Any]) -> type[BaseModel]:
    """The schema of what stands at a place, through lists, mappings and optional fields."""
    kind: Any = schema
    for part in parts:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[part].annotation
        else:  # list[X] or dict[str, X]
            kind = get_args(kind)[-1]
        if NoneType in get_args(kind):
            (kind,) = (arg for arg in get_args(kind) if arg is not NoneType)
    return kind


def _dotted(parts: list[Any]) -> str:
    """('models', 1, 'locate') as models[1].locate."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text
