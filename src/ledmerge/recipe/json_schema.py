"""The form of a recipe as a JSON Schema, for editors that complete and check YAML."""

from typing import Any

from ledmerge.methods._catalog import Option, get_method, method_names
from ledmerge.recipe.mergekit import IGNORED
from ledmerge.recipe.schema import RecipeFile


def recipe_schema() -> dict[str, Any]:
    """The schema of one document of a recipe file.

    It knows every key, every method, and the options of all of them together; which of these go
    with a method, and what needs a look at models, only `ledmerge plan` says.
    """
    schema = RecipeFile.model_json_schema()
    schema["properties"]["merge_method"]["enum"] = method_names()
    parameters = _parameters()
    for form in (schema, *schema["$defs"].values()):
        own = form["properties"].get("parameters")
        if own is not None:
            own |= {"properties": parameters, "additionalProperties": False}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "A recipe of ledmerge",
    }


def _parameters() -> dict[str, Any]:
    """Option -> what may be written; an option of several methods has the kinds of all."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    meanings: dict[str, dict[str, list[str]]] = {}
    for method in method_names():
        for option in get_method(method).options.values():
            for kind in _kinds(option):
                if kind not in kinds.setdefault(option.name, []):
                    kinds[option.name].append(kind)
            meaning = " ".join(option.help.split())
            meanings.setdefault(option.name, {}).setdefault(meaning, []).append(method)
    found: dict[str, Any] = {
        name: {"anyOf": kinds[name], "description": _description(meanings[name])}
        for name in sorted(kinds)
    }
    return found | {name: {"description": "Without effect."} for name in sorted(IGNORED)}


def _kinds(option: Option) -> list[dict[str, Any]]:
    if option.is_model_order:
        return [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    value: dict[str, Any] = {"type": "boolean"} if option.kind is bool else {"type": "number"}
    if option.choices:
        value = {"enum": list(option.choices)}
    values = [value, {"type": "array", "items": value, "minItems": 1}]
    values = values if option.is_gradual else [value]
    condition = {
        "type": "object",
        "properties": {"filter": {"type": ["string", "null"]}, "value": {"anyOf": values}},
        "required": ["value"],
        "additionalProperties": False,
    }
    return [*values, condition, {"type": "array", "items": condition, "minItems": 1}]


def _description(meanings: dict[str, list[str]]) -> str:
    return "\n".join(f"{', '.join(methods)}: {meaning}" for meaning, methods in meanings.items())
