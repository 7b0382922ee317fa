"""What a YAML file is, by the keys at its top: a recipe, a suite, a search or a synthesis."""

from typing import Any, Literal, NamedTuple

from ledmerge.errors import RecipeError

Kind = Literal["recipe", "suite", "search", "synthesis"]


class _Form(NamedTuple):
    own: tuple[str, ...]
    """Keys that no other kind has, one of which such a file needs."""
    expected: str
    command: str


_FORMS: dict[Kind, _Form] = {
    "recipe": _Form(
        ("merge_method", "models", "slices", "modules"),
        "'merge_method:' and 'models:'",
        "ledmerge merge",
    ),
    "suite": _Form(
        ("benchmarks", "lm_eval"), "'benchmarks:' and 'judge:'", "ledmerge evaluate --suite"
    ),
    "search": _Form(("objective", "vary"), "'recipe:', 'suite:' and 'vary:'", "ledmerge search"),
    "synthesis": _Form(("rows",), "'rows:' and 'judge:'", "ledmerge synthesize"),
}


def keys_of(kind: Kind) -> str:
    """Keys that such a file has, for a message."""
    return f"keys such as {_FORMS[kind].expected}"


def seems(fields: Any, expected: Kind) -> tuple[Kind, str] | None:
    """What a file is, and the key that shows it: `expected` if it has a key of that kind; else the
    first that fits; None if none does.
    """
    keys = fields if isinstance(fields, dict) else {}
    for kind in (expected, *_FORMS):
        if mark := next((key for key in _FORMS[kind].own if key in keys), None):
            return kind, mark
    return None


def checked_kind(fields: Any, expected: Kind, place: str) -> dict[str, Any]:
    """The fields of a file, unless it is evidently of another kind; `place` opens the message.

    Raises:
        RecipeError: it holds no keys, or those of another kind alone.
    """
    if not isinstance(fields, dict):
        raise RecipeError(f"{place}: expected {keys_of(expected)}")
    kind, mark = seems(fields, expected) or (expected, "")
    if kind != expected:
        raise RecipeError(
            f"{place}: looks like a {kind} ('{mark}'), not a {expected}; give it to "
            f"`{_FORMS[kind].command}`"
        )
    return fields
