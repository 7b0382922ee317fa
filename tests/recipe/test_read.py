"""Recipe files as people mistype them: every problem at once, each with its place and a mend."""

from pathlib import Path

import pytest

from ledmerge.errors import RecipeError
from ledmerge.recipe.read import parse_recipe, read_recipes, read_yaml
from ledmerge.recipe.schema import RecipeFile

GOOD = """
merge_method: led
base_model: base
models:
  - model: safety
    parameters: {density: 0.1}
    locate: {data: safety.jsonl, samples: 7}
  - model: math
    parameters: {density: 0.4}
    scores: s
    base_scores: b
parameters: {elect: both}
locate: {samples: 9}
dtype: bfloat16
"""


def read_recipe(path: Path) -> RecipeFile:
    (recipe,) = read_recipes(path)
    return recipe


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{path}: ")
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_a_good_recipe_is_read(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(GOOD)
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert [entry.model for entry in recipe.models] == ["safety", "math"]
    assert (recipe.locate.samples, recipe.locate.seed, recipe.dtype) == (9, 0, "bfloat16")


MISSPELT = {
    "merge_method": ("merge_metod", "'merge_metod' is not known; did you mean 'merge_method'?"),
    "base_model": ("base_modle", "'base_modle' is not known; did you mean 'base_model'?"),
    "  - model: safety": (
        "  - modell: safety",
        "models[0]: 'modell' is not known; did you mean 'model'?",
    ),
    "    base_scores": (
        "    base_score",
        "models[1]: 'base_score' is not known; did you mean 'base_scores'?",
    ),
    "locate: {samples: 9}": (
        "locate: {sampels: 9}",
        "locate: 'sampels' is not known; did you mean 'samples'?",
    ),
}


@pytest.mark.parametrize("right", MISSPELT)
def test_an_unknown_key_is_refused_with_the_nearest_spelling(tmp_path: Path, right: str):
    wrong, said = MISSPELT[right]
    assert said in problems(tmp_path, GOOD.replace(right, wrong, 1))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("density: 0.3", "'density' is an option of the method; write it under `parameters:`"),
        ("lambda: 1", "'lambda' is an option of the method; write it under `parameters:`"),
        ("rank: 4", "'rank' is an option of the method; write it under `parameters:`"),
        (
            "models: [{model: a, weight: 3}]",
            "models[0]: 'weight' is an option of the method; write it under `parameters:`",
        ),
        (
            "models: [{model: a, normalize: true}]",
            "models[0]: 'normalize' is an option of the method; write it under the recipe's own "
            "`parameters:`",
        ),
        (
            "slices: [{sources: [{model: a, layer_range: [0, 1]}], scope: layer}]",
            "slices[0]: 'scope' is an option of the method; write it under `parameters:`",
        ),
        ("models: [{model: a, wieght: 3}]", "models[0]: 'wieght' is not known; known are: base_"),
        ("locate: {weight: 3}", "locate: 'weight' is not known; known are: batch, "),
    ],
)
def test_an_option_in_a_wrong_place_is_told_where_it_belongs(tmp_path: Path, text: str, said: str):
    (found,) = problems(tmp_path, f"merge_method: linear\n{text}")
    assert found.startswith(said)


def test_a_key_near_to_nothing_lists_what_is_known(tmp_path: Path):
    (said,) = problems(tmp_path, GOOD + "flavour: sweet\n")
    assert said.startswith("'flavour' is not known; known are: base_model, chat_template, deq")


@pytest.mark.parametrize(
    ("right", "twice"),
    [
        ("dtype: bfloat16", "dtype: bfloat16\ndtype: float32"),
        ("{density: 0.1}", "{density: 0.1, density: 0.2}"),
        ("samples: 7}", "samples: 7, samples: 8}"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path, right: str, twice: str):
    said = "\n".join(problems(tmp_path, GOOD.replace(right, twice)))
    assert "stands twice" in said
    assert "line " in said


WRONG = {
    "seed: seven": "seed: expected a whole number, found 'seven'",
    "seed: 1.5": "seed: expected a whole number, found 1.5",
    "seed: null": "seed: expected a whole number, found nothing",
    "dequantize: maybe": "dequantize: expected true or false, found 'maybe'",
    "dtype: bf16": "dtype: expected 'bfloat16', 'float16' or 'float32', found 'bf16'",
    "name: a/b": "name: expected a name of the form ^[^./\\\\][^/\\\\]*$, found 'a/b'",
    "models: base": "models: expected a list, found 'base'",
    "models: []": "models: lists no model",
    "models: [fam/a]": "models[0]: expected keys such as 'model:', found 'fam/a'; write "
    "`- model: fam/a`",
    "models: [3]": "models[0]: expected keys such as 'model:', found 3",
    "models: [{model: 3}]": "models[0].model: expected text, found 3",
    "models: [{model: ''}]": "models[0].model: expected text, found ''",
    "models: [{model: {path: ''}}]": "models[0].model: 'path' and 'revision' should",
    "base_model: ''": "base_model: expected text, found ''",
    "models: [{model: {pth: a}}]": "models[0].model: 'pth' is not known; did you mean 'path'?",
    "models: [{model: {path: a, revision: 3}}]": "models[0].model: 'path' and 'revision' should",
    "models: [{model: {path: a, lora: 3}}]": "models[0].model: expected text, found",
    "models: [{}]": "models[0]: 'model' is missing",
    "models: [{model: a, parameters: 3}]": "models[0].parameters: expected `name: value`, found 3",
    "models: [{model: a, locate: {samples: 3}}]": "models[0].locate: 'data' is missing",
    "models: [{model: a, locate: rows.jsonl}]": "models[0].locate: expected keys such as 'data:', "
    "found 'rows.jsonl'; write `locate: {data: rows.jsonl}`",
    "slices: [{sources: [a]}]": "slices[0].sources[0]: expected keys such as 'model:' and "
    "'layer_range:', found 'a'",
    "slices: [{sources: [{model: a, layer_range: 3}]}]": "slices[0].sources[0].layer_range: "
    "expected a list, found 3",
    "slices: [{sources: [{model: a, layer_range: [1]}]}]": "slices[0].sources[0].layer_range: "
    "expected 2 entries, found 1",
    "slices: [{sources: [{model: a, layer_range: [1, 2, 3]}]}]": "slices[0].sources[0]."
    "layer_range: expected 2 entries, found 3",
    "keep: [{filter: '', model: a}]": "keep[0].filter: expected text, found ''",
    "guard: {scores: a, keep: base, density: x}": "guard.density: expected a number, found 'x'",
    "guard: {scores: a, keep: base, density: 2}": "guard.density: expected at most 1, found 2",
    "slices: [a]": "slices[0]: expected keys such as 'sources:', found 'a'",
    "tokenizer: base": "tokenizer: expected keys such as 'source:', found 'base'",
    "parameters: [1]": "parameters: expected `name: value`, found [1]",
    "locate: {samples: 0}": "locate.samples: expected at least 1, found 0",
    "locate: {max_length: 1}": "locate.max_length: expected at least 2, found 1",
    "locate: {score: snipp}": "locate.score: expected one of delta_snip, fisher, ",
    "1: 2": "1: keys should be strings",
    "locate: {1: 2}": "locate.1: keys should be strings",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_value_is_named_with_what_was_expected(tmp_path: Path, wrong: str):
    key = wrong.split(":")[0]
    rest = {"merge_method": "linear", "models": "[{model: a}]"}
    rest.pop(key, None)
    text = "".join(f"{name}: {value}\n" for name, value in rest.items()) + wrong
    found = problems(tmp_path, text)
    assert any(line.startswith(WRONG[wrong]) for line in found), found
    assert not any("write `" in line for line in found) or "write `" in WRONG[wrong], found


SOURCES = {
    "{kind: model_token, model: a, tokn: <y>}": ": 'tokn' is not known; did you mean 'token'?",
    "{kind: zero, foo: 1}": ": 'foo' is not known; known are: kind",
    "{kind: model_token, model: a}": ": give either 'token' or 'token_id', found",
    "{kind: model_token, token: b}": ": 'model' is missing",
    "{kind: model_token, model: a, token_id: -1}": ".token_id: expected at least 0, found -1",
    "{kind: row}": ": 'kind' should be 'zero' or 'model_token', found {'kind': 'row'}",
    "{kind: [zero]}": ": 'kind' should be 'zero' or 'model_token', found",
    "{model: a, token: b}": ": 'token' is not known",
    "3": ": expected text, found 3",
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_wrong_source_of_a_token_is_told_as_what_it_was_meant_to_be(tmp_path: Path, source: str):
    tokens = f"{{<x>: {{source: {source}}}}}"
    text = f"merge_method: linear\nmodels: [{{model: a}}]\ntokenizer: {{tokens: {tokens}}}"
    (said,) = problems(tmp_path, text)
    assert said.startswith(f"tokenizer.tokens.<x>.source{SOURCES[source]}"), said


def test_a_long_value_is_cut(tmp_path: Path):
    (said,) = problems(tmp_path, f"merge_method: linear\nmodels: {'a' * 1000}")
    assert len(said) < 150


def test_all_problems_are_told_at_once(tmp_path: Path):
    text = "models: [{model: a, densty: 1}, {}]\nlocate: {sampels: 1, seed: x}\ndtype: f\nsede: 1"
    found = problems(tmp_path, text)
    expected = ("'merge_method'", "'densty'", "models[1]: 'model'", "'sampels'", "locate.seed")
    for said in (*expected, "dtype", "did you mean 'seed'"):
        assert any(said in line for line in found), said


NO_RECIPE = {
    "nothing": "",
    "empty documents": "---\n---\n",
    "a list": "- a\n",
    "a number": "3",
    "tabs": "models:\n\t- a",
    "an open bracket": "models: [",
    "an impossible date": "merge_method: 2024-99-99",
    "python": "merge_method: !!python/object/apply:os.system [true]",
    "a list as key": "? [a]\n: 1",
    "nested 50,000 deep": "[" * 50_000,
    "control characters": "a: \x01",
    "a letter that there is not": 'a: "\\U00110000"',
    "a letter beyond all numbers": 'a: "\\UFFFFFFFF"',
}


@pytest.mark.parametrize("text", NO_RECIPE.values(), ids=NO_RECIPE)
def test_what_is_no_recipe_is_refused_by_name(tmp_path: Path, text: str):
    problems(tmp_path, text)


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"none.yaml: cannot be read"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "recipe.yaml").write_bytes(b"merge_method: \xff")
    with pytest.raises(RecipeError, match=r"recipe.yaml: cannot be read"):
        read_recipe(tmp_path / "recipe.yaml")


def test_anchors_and_merge_keys_work_as_in_any_yaml(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(
        "merge_method: ties\nbase_model: base\nmodels:\n"
        "  - &first {model: a, parameters: &shared {density: 0.1, weight: 2}}\n"
        "  - {model: b, parameters: {<<: *shared, density: 0.3}}\n"
        "  - {<<: *first, model: c}\n"
    )
    a, b, c = read_recipe(tmp_path / "recipe.yaml").models
    assert a.parameters == c.parameters == {"density": 0.1, "weight": 2}
    assert b.parameters == {"density": 0.3, "weight": 2}
    assert (a.model, b.model, c.model) == ("a", "b", "c")


def test_what_is_merged_may_have_merged_others_itself(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(
        "merge_method: ties\nbase_model: base\n"
        "models:\n"
        "  - {model: a, parameters: &own {<<: &all {density: 0.5, weight: 1}, weight: 2}}\n"
        "parameters: {<<: *own, density: 0.3}\n"
    )
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert recipe.models[0].parameters == {"density": 0.5, "weight": 2}
    assert recipe.parameters == {"density": 0.3, "weight": 2}


def test_a_mapping_is_checked_as_a_file_is():
    with pytest.raises(RecipeError, match=r"^here: 'sed' is not known; did you mean 'seed'"):
        parse_recipe({"merge_method": "linear", "models": [{"model": "a"}], "sed": 1}, "here")


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(
        "merge_method: ram\nmodels: [{model: a1e}]\n"
        "parameters: {a: 1e-5, b: -2E+3, c: .5e1, d: 1.e0, e: 1e, f: e5, g: '1e5'}\n"
    )
    recipe = read_recipe(tmp_path / "recipe.yaml")
    assert recipe.parameters == {
        "a": 1e-5, "b": -2000.0, "c": 5.0, "d": 1.0, "e": "1e", "f": "e5", "g": "1e5"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("0100", "'0100' is 64 in YAML 1.1 and 100 in 1.2; write the number that is meant, or"),
        ("-010", "'-010' is -8 in YAML 1.1 and -10 in 1.2;"),
        ("1:30", "'1:30' is 90 in YAML 1.1 and text in 1.2;"),
        ("1:30.5", "'1:30.5' is 90.5 in YAML 1.1 and text in 1.2;"),
    ],
)
def test_a_number_that_yaml_reads_in_two_ways_is_refused(tmp_path: Path, number: str, said: str):
    (found,) = problems(tmp_path, f"merge_method: ram\nparameters: {{a: {number}}}")
    assert found.startswith(f"not YAML: line 2, column 17: {said}")


def test_numbers_that_yaml_reads_in_one_way_are_read(tmp_path: Path):
    (tmp_path / "numbers.yaml").write_text("[0, 007, 1_000, +12, -3.50, 0x10, .inf, '0100', 0o17]")
    numbers = [0, 7, 1000, 12, -3.5, 16, float("inf"), "0100", "0o17"]
    assert read_yaml(tmp_path / "numbers.yaml") == numbers


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{{\n", "not YAML: line 2, column 1: expected the node content"),
        ("a: b\nc: [\n", "not YAML: line 3, column 1: expected the node content"),
        ("a: b\nc: \0", "not YAML: line 2, column 4: special characters are not allowed"),
        ("a: b\nc: 2024-99-99", "not YAML: line 2, column 4: '2024-99-99' cannot be read as YAML"),
        ("a: !!bool maybe", "not YAML: line 1, column 4: 'maybe' cannot be read as YAML's bool"),
        ("a: !!timestamp now", "not YAML: line 1, column 4: 'now' cannot be read as YAML's timest"),
        (f"a: {'1' * 5000}", "not YAML: line 1, column 4: '1111111"),
        ("a: b\nc: &c [*c]", "not YAML: line 2, column 4: holds itself, by its anchor"),
        ("a: &a {b: {c: *a}}", "not YAML: line 1, column 4: holds itself, by its anchor"),
    ],
)
def test_what_is_not_yaml_is_one_line_with_its_place(tmp_path: Path, text: str, said: str):
    (found,) = problems(tmp_path, text)
    assert found.startswith(said)
