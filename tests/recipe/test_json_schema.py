"""The schema for editors agrees with what recipes may say."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import get_method, method_names
from ledmerge.methods.adapters._catalog import adapter_method_names, get_adapter_method
from ledmerge.recipe.adapters import load_adapter_recipe
from ledmerge.recipe.json_schema import adapter_schema, recipe_schema
from ledmerge.recipe.read import read_recipes
from ledmerge.recipe.schema import RecipeFile

ADAPTERS = Path(__file__).parents[2] / "docs" / "adapters.md"
CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(json.dumps(recipe_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_every_key_has_a_meaning():
    schema = recipe_schema()
    for name in ("RecipeFile", *schema["$defs"]):
        form = schema if name == "RecipeFile" else schema["$defs"][name]
        for key, about in form["properties"].items():
            assert about.get("description"), f"{name}.{key}"
    assert schema["properties"].keys() == RecipeFile.model_fields.keys()


def test_every_option_of_every_method_is_known():
    known = recipe_schema()["properties"]["parameters"]["properties"]
    for name in method_names():
        for option in get_method(name).options.values():
            assert f"{name}" in known[option.name]["description"]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_recipes_of_the_corpus_are_valid(validator, path: Path):
    if path.stem == "odd_names":
        pytest.skip("models written as mappings are for programs")
    (recipe,) = read_recipes(path)
    fields = recipe.model_dump(mode="json", exclude_unset=True)
    assert [error.message for error in validator.iter_errors(fields)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"merge_metod": "ties"},
        {"merge_method": "tise"},
        {"parameters": {"densty": 1}},
        {"parameters": {"density": "1"}},
        {"parameters": {"density": [{"filtr": "x", "value": 1}]}},
        {"models": [{"model": "a", "wieght": 1}]},
        {"slices": [{"sources": [{"model": "a", "layer_range": [0]}]}]},
    ],
)
def test_what_is_wrong_is_seen(validator, wrong: dict):
    fields = {"merge_method": "ties", "models": [{"model": "a"}]}
    assert validator.is_valid(fields)
    assert not validator.is_valid({**fields, **wrong})


@pytest.fixture(scope="module")
def adapters() -> jsonschema.Draft202012Validator:
    schema = json.loads(json.dumps(adapter_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(schema))) == {"#/$defs/ModelEntry"}
    return jsonschema.Draft202012Validator(schema)


def of_adapters(method: str, **fields: object) -> dict:
    """A recipe with every option of a method; `parameters` of the whole may be added to."""
    options = get_adapter_method(method).options.values()
    own = {each.name: 0.5 for each in options if each.is_per_model}
    models = [{"model": "math", "parameters": own}, {"model": "owner/code@main"}]
    shared = {each.name: 4 for each in options if not each.is_per_model}
    shared |= {name: [{"filter": "q_proj", "value": 1}, {"value": 2}] for name in own}
    return {"merge_method": method, "models": models, "parameters": shared, **fields}


@pytest.mark.parametrize("method", adapter_method_names())
def test_recipes_of_adapters_are_valid(adapters, method: str):
    fields = of_adapters(method, dtype="bfloat16")
    load_adapter_recipe(fields)
    assert [error.message for error in adapters.iter_errors(fields)] == []


def test_the_recipe_of_adapters_in_the_docs_is_valid(adapters):
    alone = ADAPTERS.read_text(encoding="utf-8").partition("## Merging adapters alone")[2]
    (text,) = re.findall(r"```yaml\n(.*?)```", alone, re.DOTALL)
    fields = yaml.safe_load(text)
    load_adapter_recipe(fields)
    assert [error.message for error in adapters.iter_errors(fields)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"merge_method": "ties"},
        {"models": [{"model": "a", "scores": "s"}]},
        {"models": [{"model": "a", "locate": {"data": "rows.jsonl"}}]},
        {"parameters": {"rank": "4"}},
        {"parameters": {"rank": 4, "density": 1}},
        {"base_model": "x"},
        {"locate": {"samples": 4}},
        {"seed": 0},
        {"slices": [{"sources": [{"model": "a", "layer_range": [0, 1]}]}]},
    ],
)
def test_what_is_wrong_with_a_recipe_of_adapters_is_seen(adapters, wrong: dict):
    fields = of_adapters("svd", **wrong)
    assert not adapters.is_valid(fields)
    with pytest.raises(RecipeError):
        load_adapter_recipe(fields)
