"""What a search file may say, and what it does to the recipe."""

from pathlib import Path

import pytest
import yaml

from ledmerge.errors import RecipeError
from ledmerge.recipe.search import count_numbers, load_search

RECIPE = {
    "merge_method": "led",
    "base_model": "base",
    "models": [
        {"model": "safety", "locate": {"data": "rows.jsonl"}, "parameters": {"weight": 1.0}},
        {"model": "owner/math@main"},
    ],
    "parameters": {"density": 0.5, "disjoint": "priority", "priority": ["safety"]},
}


@pytest.fixture
def write(tmp_path):
    """Writes the recipe and a search with some keys changed, and gives the search's path."""

    def write(**changed):
        fields = {
            "recipe": "recipe.yaml",
            "suite": "suite.yaml",
            "objective": {"harm.safe_and_coherent": 1.0},
            "vary": {"parameters.density": {"low": 0.1, "high": 1.0}},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
        path = tmp_path / "search.yaml"
        path.write_text(yaml.safe_dump({**fields, **changed}))
        return path

    return write


@pytest.mark.parametrize(
    ("place", "value", "found"),
    [
        ("parameters.density", 0.7, lambda r: r["parameters"]["density"]),
        ("models[0].parameters.weight", 0.7, lambda r: r["models"][0]["parameters"]["weight"]),
        (
            "models[1].parameters.weight",
            [0.1, 0.2],
            lambda r: r["models"][1]["parameters"]["weight"],
        ),
        ("merge_method", "ties", lambda r: r["merge_method"]),
    ],
)
def test_a_value_is_put_in_its_place_and_nowhere_else(write, place, value, found):
    search = load_search(write(vary={place: ["x", "y"]}))
    fields = search.with_values({place: value})
    assert found(fields) == value
    assert search.fields == RECIPE
    fields.pop(place.split(".")[0].split("[")[0])
    assert all(RECIPE[key] == fields[key] for key in fields)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("models[2].parameters.weight", "no 'models\\[2\\].*there are 2 entries, counted from 0"),
        ("models.weight", "the recipe has no 'models.weight'"),
        ("merge_method.density", "'led' stands"),
        ("parameters..density", "names no place"),
        (".density", "names no place"),
        ("parameters density", "names no place"),
        ("models[0]parameters.weight", "names no place"),
    ],
)
def test_a_place_that_cannot_be_is_refused(write, place, message):
    with pytest.raises(RecipeError, match=message):
        load_search(write(vary={place: [1, 2]}))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"vary": {"parameters.density": [0.5]}}, "two or more values"),
        ({"vary": {"parameters.density": [0.5, 0.5]}}, "values that differ"),
        ({"vary": {"parameters.density": 0.5}}, "expected a range"),
        ({"vary": {"parameters.density": {"low": 1.0, "high": 0.1}}}, "'low' below 'high'"),
        ({"vary": {"parameters.density": {"low": 0, "high": 1, "log": True}}}, "above 0"),
        ({"vary": {"parameters.density": {"lo": 0, "high": 1}}}, "'lo' is not known.*'low'"),
        ({"vary": {"parameters.density": {"low": 0, "high": 1, "anchors": 1}}}, "anchors"),
        ({"vary": {}}, "vary"),
        ({"objective": {}}, "objective"),
        ({"objective": {"harm.safe_and_coherent": -1.0}}, "more than 0"),
        ({"sampler": "cmaes"}, "cmaes varies two numbers or more"),
        ({"sampler": "cmaes", "vary": {"a": [1, 2], "b": [1, 2]}}, "and nothing else"),
        ({"trails": 3}, "'trails' is not known; did you mean 'trials'"),
        ({"trials": 0}, "trials"),
        ({"seed": -1}, "seed: expected at least 0"),
        ({"seed": 2**40}, "seed: .*less than"),
        ({"vary": {"parameters.density": {"low": 0, "high": 1, "step": 3}}}, "should divide"),
        ({"vary": {"parameters.density": {"low": 0, "high": 1, "step": 0.4}}}, "should divide"),
        ({"vary": {"parameters.density": {"low": 0, "high": 1, "step": 1e-320}}}, "a million"),
    ],
)
def test_what_makes_no_search_is_refused(write, changed, message):
    with pytest.raises(RecipeError, match=message):
        load_search(write(**changed))


def test_anchors_count_as_numbers(write):
    search = load_search(
        write(vary={"parameters.density": {"low": 0, "high": 1, "anchors": 3}}, sampler="cmaes")
    )
    assert count_numbers(search.space) == 3
    assert search.space["parameters.density"].ends == [[0, 0, 0], [1, 1, 1]]


def test_what_yaml_has_twice_is_varied_once(write, tmp_path: Path):
    path = write(vary={"models[0].parameters.weight": [1.0, 2.0]})
    models = "[{model: a, parameters: &p {weight: 1.0}}, {model: b, parameters: *p}]"
    (tmp_path / "recipe.yaml").write_text(f"{{merge_method: linear, models: {models}}}")
    fields = load_search(path).with_values({"models[0].parameters.weight": 2.0})
    assert [each["parameters"]["weight"] for each in fields["models"]] == [2.0, 1.0]


WEIGHT = "models[0].parameters.weight"


@pytest.mark.parametrize(
    ("place", "varied", "own"),
    [
        (WEIGHT, {"low": 0.0, "high": 1.0}, 1.0),
        (WEIGHT, {"low": 0.0, "high": 0.9}, None),
        (WEIGHT, {"low": 0.0, "high": 1.5, "step": 0.5}, 1.0),
        (WEIGHT, {"low": 0.1, "high": 1.6, "step": 0.5}, None),
        (WEIGHT, {"low": 0.5, "high": 2.0, "log": True}, 1.0),
        (WEIGHT, {"low": 0.0, "high": 1.0, "anchors": 3}, [1.0, 1.0, 1.0]),
        (WEIGHT, [0.5, 1], 1),
        (WEIGHT, [True, 2], None),
        (WEIGHT, ["1.0", 2], None),
        ("models[1].parameters.weight", [0.5, 1.0], None),
        ("parameters.disjoint", ["priority", "share"], "priority"),
        ("parameters.priority", ["safety", "math"], None),
        ("merge_method", ["ties", "led"], "led"),
    ],
)
def test_what_the_recipe_itself_says_is_known_where_it_is_among_what_is_tried(
    write, place, varied, own
):
    found = load_search(write(vary={place: varied})).own
    assert found == ({} if own is None else {place: own})


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ([0.2, 0.4], [0.2, 0.4]),
        ([0.2, 1.4], None),
        ([0.2, 0.3, 0.4], None),
        ([{"filter": "mlp", "value": 0.5}, {"value": 0.2}], None),
        (float("nan"), None),
        (True, None),
    ],
)
def test_a_gradient_of_the_recipe_counts_where_it_has_as_many_anchors(
    write, tmp_path: Path, said, own
):
    path = write(vary={"parameters.density": {"low": 0.0, "high": 1.0, "anchors": 2}})
    fields = {**RECIPE, "parameters": {"density": said}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    assert load_search(path).own == ({} if own is None else {"parameters.density": own})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{benchmarks: {harm: {data: a.jsonl}}, dtype: float32}", "is a suite ('benchmarks')"),
        ("lm_eval: {tasks: [seas]}", "is a suite ('lm_eval')"),
        ("{recipe: recipe.yaml, suite: b, vary: {}, objective: {}}", "is a search ('objective')"),
        ("{format: 1, parameters: {density: 1}}", "has the keys 'format', 'parameters'"),
        ("{1: 2, a: 1, b: 2, c: 3, d: 4, e: 5}", "has the keys '1', 'a', 'b', 'c' and 2 more"),
        ("[a, b]", "holds no keys"),
        ("", "holds no keys"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_for_what_it_is(write, tmp_path: Path, text, message):
    path = write()
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(RecipeError) as raised:
        load_search(path)
    said = str(raised.value)
    assert said.startswith(f"{path}: recipe: {tmp_path / 'recipe.yaml'} {message}; expected a rec")
    assert "'merge_method:' and 'models:'" in said


def test_a_recipe_with_a_misspelt_method_is_left_to_whoever_reads_recipes(write, tmp_path: Path):
    path = write()
    (tmp_path / "recipe.yaml").write_text("{merge_methd: led, models: [{model: a}]}")
    assert load_search(path).fields["merge_methd"] == "led"
