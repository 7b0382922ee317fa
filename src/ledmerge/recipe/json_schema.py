"""The form of a recipe as a JSON Schema, for editors that complete and check YAML."""

from collections.abc import Mapping
from typing import Any

from ledmerge.methods._catalog import Option, get_method, method_names
from ledmerge.methods.adapters._catalog import adapter_method_names, get_adapter_method
from ledmerge.recipe.adapters import WITHOUT, WITHOUT_IN_MODELS
from ledmerge.recipe.mergekit import IGNORED
from ledmerge.recipe.schema import RecipeFile

_ADAPTERS = {
    "merge_method": "How they are merged; docs/adapters.md has the table.",
    "models": "The adapters.",
    "model": "An adapter's folder, or a hub id `owner/name@revision`.",
    "parameters": "Options of the merge method, for this adapter or for all.",
    "dtype": "Dtype of the factors, float32 by default.",
}
"""What keys mean where adapters are merged alone, if not what they mean in other recipes."""


def recipe_schema() -> dict[str, Any]:
    """The schema of one document of a recipe file.

    It knows every key, every method, and the options of all of them together; which of these go
    with a method, and what needs a look at models, only `ledmerge plan` says.
    """
    methods = {name: get_method(name).options for name in method_names()}
    return _completed(RecipeFile.model_json_schema(), methods, "A recipe of ledmerge")


def adapter_schema() -> dict[str, Any]:
    """The same of a recipe for `ledmerge adapters`, which has fewer keys."""
    schema = RecipeFile.model_json_schema()
    entry = schema["$defs"]["ModelEntry"]
    schema["$defs"] = {"ModelEntry": entry}  # the only one that these keys lead to
    for form, without in ((schema, WITHOUT), (entry, WITHOUT_IN_MODELS)):
        form["properties"] = {k: v for k, v in form["properties"].items() if k not in without}
        for key, meaning in _ADAPTERS.items():
            if key in form["properties"]:
                form["properties"][key]["description"] = meaning
    schema["required"] = ["merge_method", "models"]
    methods = {name: get_adapter_method(name).options for name in adapter_method_names()}
    return _completed(schema, methods, "A recipe of ledmerge for adapters alone")


def _completed(
    schema: dict[str, Any], methods: Mapping[str, Mapping[str, Option]], title: str
) -> dict[str, Any]:
    """With the methods' names and options, and a title."""
    schema["properties"]["merge_method"]["enum"] = list(methods)
    parameters = _parameters(methods)
    for form in (schema, *schema["$defs"].values()):
        own = form["properties"].get("parameters")
        if own is not None:
            own |= {"properties": parameters, "additionalProperties": False}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}


def _parameters(methods: Mapping[str, Mapping[str, Option]]) -> dict[str, Any]:
    """Option -> what may be written; an option of several methods has the kinds of all."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    meanings: dict[str, dict[str, list[str]]] = {}
    for method, options in methods.items():
        for option in options.values():
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
