"""The schema for editors agrees with what recipes may say."""

import json
from pathlib import Path

import jsonschema
import pytest

from ledmerge.methods._catalog import get_method, method_names
from ledmerge.recipe.json_schema import recipe_schema
from ledmerge.recipe.read import read_recipes
from ledmerge.recipe.schema import RecipeFile

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
