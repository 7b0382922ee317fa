"""Recipes looked up: methods, options in force, models and paths."""

from pathlib import Path
from typing import Any

import pytest

from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import get_method, method_names
from ledmerge.recipe.options import Expert, read_options
from ledmerge.recipe.recipe import Recipe, load_recipe

LED = {
    "merge_method": "led",
    "base_model": "base",
    "models": [
        {"model": "x/safety", "parameters": {"density": 0.1}, "locate": {"data": "s.jsonl"}},
        {"model": "x/math", "parameters": {"density": 0.4}, "locate": {"data": "m.jsonl"}},
    ],
}


def ties(**changes: Any) -> dict[str, Any]:
    models = [{"model": "a"}, {"model": "b"}]
    return {"merge_method": "ties", "base_model": "base", "models": models, **changes}


def led(*changes: dict[str, Any], **common: Any) -> dict[str, Any]:
    models = [
        {k: v for k, v in {**entry, **change}.items() if v is not None}
        for entry, change in zip(LED["models"], changes or ({}, {}), strict=True)
    ]
    return {**LED, "models": models, **common}


_DENSITY = (
    "'density' is missing; r_i of the paper, in [0, 1]: share of each tensor's entries that may be "
    "this expert's, those that score highest. Its authors took 0.1 for safety, 0.4 for math and "
    "0.5 for code"
)


def problems(recipe: dict[str, Any]) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe)
    lines = str(caught.value).splitlines()
    assert all(line.startswith("recipe: ") for line in lines), lines
    return [line.removeprefix("recipe: ") for line in lines]


def test_every_option_has_its_value():
    recipe = load_recipe(ties(parameters={"density": 0.2, "lambda": 0.5}, dtype="float16"))
    assert recipe.options == {
        "weight": [1.0, 1.0],
        "density": [0.2, 0.2],
        "normalize": True,
        "rescale": False,
        "lambda_": 0.5,
        "scope": "tensor",
        "convention": "mergekit",
    }
    assert (recipe.scope, recipe.seed, recipe.dtype) == ("tensor", 0, "float16")


def test_a_models_own_option_wins_over_the_common_one():
    models = [{"model": "a", "parameters": {"weight": 3}}, {"model": "b"}]
    recipe = load_recipe(ties(models=models, parameters={"weight": 0.5, "density": 0.7}))
    assert recipe.options["weight"] == [3.0, 0.5]
    assert recipe.options["density"] == [0.7, 0.7]


def test_an_option_of_all_models_cannot_differ_between_them():
    models = [{"model": "a", "parameters": {"normalize": False}}, {"model": "b"}]
    (said,) = problems(ties(models=models))
    assert said.startswith("models[0].parameters: 'normalize' is one for all models; put it under")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tise", "no merge method 'tise'; did you mean 'ties'?"),
        ("soup", "no merge method 'soup'; known are: aim, arcee_fusion, breadcrumbs, "),
        ("_catalog", "no merge method '_catalog'"),
    ],
)
def test_an_unknown_method_is_refused_with_a_suggestion(name: str, said: str):
    with pytest.raises(RecipeError) as caught:
        load_recipe(ties(merge_method=name))
    assert said in str(caught.value)


WRONG = {
    "densty": (0.1, "'densty' is not known to ties; did you mean 'density'?"),
    "density": (1.5, "density: 1.5 is outside [0, 1]"),
    "weight": ("1e-3", "weight: expected a number, found '1e-3'"),
    "normalize": (1, "normalize: expected true or false, found 1"),
    "scope": ("global_", "scope: 'global_' is not known; did you mean 'global'?"),
    "lambda": (float("inf"), "lambda: expected a finite number"),
    "lambda_": (1.0, "'lambda_' is not known to ties; did you mean 'lambda'?"),
    "convention": (["paper"], "convention: '['paper']' is not known; did you mean 'paper'?"),
}


@pytest.mark.parametrize("option", WRONG)
def test_a_wrong_option_is_refused(option: str):
    value, said = WRONG[option]
    assert any(said in problem for problem in problems(ties(parameters={option: value})))


@pytest.mark.parametrize("value", [True, None, [0.1, 2], float("nan"), -0.1, 10**400])
def test_a_density_is_a_number_from_0_to_1(value: object):
    (problem,) = problems(ties(parameters={"density": value}))
    assert problem.split(": ")[0] == "parameters.density"


def test_a_number_too_large_for_a_float_is_refused():
    (said,) = problems(ties(parameters={"weight": 10**400}))
    assert said.startswith("parameters.weight: ")


def test_a_wrong_option_is_told_where_it_stands():
    models = [{"model": "a", "parameters": {"weight": "x"}}, {"model": "b"}]
    said = problems(ties(models=models, parameters={"density": 2}))
    assert [problem.split(": ")[0] for problem in said] == [
        "models[0].parameters.weight",
        "parameters.density",
    ]


@pytest.mark.parametrize(
    ("density", "is_noted"), [([0.1, 0.2], True), ([0.1, 0.2, 0.3], False), (0.1, False)]
)
def test_as_many_numbers_as_models_are_said_to_go_along_the_layers(density: Any, is_noted: bool):
    recipe = load_recipe(ties(parameters={"density": density}))
    told = "parameters.density: 2 values go along the layers, for every model; "
    assert [note.startswith(told) for note in recipe.notes] == [True] * is_noted


def test_a_missing_option_is_named_with_its_meaning():
    said = problems(led({"parameters": {}}, {}))
    assert said == [f"models[0].parameters: {_DENSITY}"]


def test_an_option_that_all_models_miss_is_told_once():
    said = problems(led({"parameters": {}}, {"parameters": {}}))
    assert said == [
        f"parameters: {_DENSITY}. Write one here for all models, or one under each model's own "
        "`parameters:`"
    ]


def test_an_option_that_all_slices_miss_is_told_once():
    sources = [{"model": name, "layer_range": [0, 1]} for name in ("base", "a")]
    slices = [{"sources": sources}] * 3
    said = problems({"merge_method": "slerp", "base_model": "base", "slices": slices})
    assert said == [
        "parameters: 't' is missing; 0 gives the base, 1 the other model, 0.5 the middle between "
        "them"
    ]


@pytest.mark.parametrize("name", method_names())
def test_what_is_said_of_a_missing_option_is_one_line(name: str):
    for option in get_method(name).options.values():
        found: list[str] = []
        if option.is_required:
            read_options(get_method(name), [Expert("m", "a", {})], [], found, [])
            assert any(f"'{option.name}' is missing; " in said for said in found)
            assert not any("\n" in said for said in found)


def test_problems_of_all_models_are_told_at_once():
    said = problems(
        led(
            {"parameters": {"density": 2}, "locate": {"data": "x", "sampels": 1}},
            {"parameters": {"densty": 0.1}, "locate": None},
            parameters={"elect": "all"},
        )
    )
    for part in ("outside [0, 1]", "'sampels'", "'densty'", "models[1]: led needs scores", "elect"):
        assert any(part in line for line in said), part


def test_a_wrong_setting_of_one_models_data_names_the_setting():
    said = problems(led({"locate": {"data": "x", "samples": 0, "batch": 0, "seeed": 1}}, {}))
    assert any(line.startswith("models[0].locate.samples: ") for line in said)
    assert any(line.startswith("models[0].locate.batch: ") for line in said)
    assert "models[0].locate: 'seeed' is not known; did you mean 'seed'?" in said


def test_settings_of_one_models_data_win_over_the_common_ones():
    recipe = load_recipe(led({"locate": {"data": "x", "samples": 3}}, {}, locate={"seed": 5}))
    first, second = recipe.sources
    assert (first.data, first.settings.samples, first.settings.seed) == ("x", 3, 5)
    assert (second.data, second.settings.samples, second.settings.seed) == ("m.jsonl", 128, 5)


@pytest.mark.parametrize(
    "change",
    [
        {"locate": None},
        {"locate": None, "scores": "s"},
        {"locate": None, "base_scores": "s"},
        {"scores": "s", "base_scores": "b"},
    ],
)
def test_scores_come_in_pairs_or_from_data(change: dict[str, Any]):
    (said,) = problems(led(change, {}))
    assert said.startswith("models[0]: ")
    assert "'base_scores'" in said


def obim(*models: dict[str, Any]) -> dict[str, Any]:
    entries = [{"model": f"m{place}", **entry} for place, entry in enumerate(models)]
    given = {"merge_method": "obim", "base_model": "base", "parameters": {"density": 0.5}}
    return {**given, "models": entries}


def test_a_method_that_asks_nothing_of_the_base_takes_scores_alone():
    recipe = load_recipe(obim({"scores": "s", "base_scores": "b"}, {"locate": {"data": "d"}}))
    assert [source.folders for source in recipe.sources] == [("s",), ()]
    assert recipe.notes == (
        "obim uses no scores of the base; the recipe's `base_scores` are not read",
    )
    said = problems(obim({"base_scores": "b"}, {"scores": "s", "locate": {"data": "d"}}))
    assert said[0].startswith("models[0]: obim needs scores; give 'locate: {data: FILE}', or 'sco")
    assert said[1] == "models[1]: give 'scores', or 'locate' with 'data', not a mix"


def test_a_missing_model_is_named_once():
    given = obim({"scores": "s"}) | {"merge_method": "reason_any"}
    (said,) = problems(given)
    assert said.startswith("parameters: 'lowest' is missing; models that keep their lowest band")


def test_a_method_without_scores_says_that_it_does_not_read_them():
    models = [{"model": "a", "scores": "s"}, {"model": "b"}]
    recipe = load_recipe(ties(models=models))
    assert recipe.sources == (None, None)
    assert recipe.notes == ("ties uses no scores; the recipe's `locate` and `scores` are not read",)


@pytest.mark.parametrize("names", [["math", "x/safety"], "math"])
def test_priority_names_models_in_full_or_by_their_folder(names: object):
    recipe = load_recipe(led(parameters={"disjoint": "priority", "priority": names}))
    assert recipe.options["priority"] == ([1, 0] if isinstance(names, list) else [1])


_FOLLOW = "; models that 'priority' does not name follow in the recipe's order"


@pytest.mark.parametrize(
    ("parameters", "notes"),
    [
        (
            {"disjoint": "priority"},
            (f"disjoint: priority: the order is x/safety, x/math{_FOLLOW}",),
        ),
        (
            {"disjoint": "priority", "priority": ["math"]},
            (f"disjoint: priority: the order is x/math, x/safety{_FOLLOW}",),
        ),
        (
            {"disjoint": [{"filter": "mlp", "value": "priority"}, {"value": "none"}]},
            (f"disjoint: priority: the order is x/safety, x/math{_FOLLOW}",),
        ),
        ({"disjoint": "priority", "priority": ["math", "safety"]}, ()),
        ({"disjoint": "winner"}, ()),
        ({}, ()),
    ],
)
def test_the_order_of_models_is_told_where_the_recipe_does_not_say_it(parameters, notes):
    assert load_recipe(led(parameters=parameters)).notes == notes


def test_priority_of_an_unknown_model_is_refused():
    (said,) = problems(led(parameters={"priority": ["saftey"]}))
    assert said == (
        "parameters.priority: 'saftey' is no model of this recipe; did you mean 'safety'?"
    )
    ambiguous = led({"model": "x/it"}, {"model": "y/it"}, parameters={"priority": ["it"]})
    assert "'it' is no model of this recipe" in problems(ambiguous)[0]


def test_the_base_may_be_listed_among_the_models_as_mergekit_does():
    models = [{"model": "base"}, {"model": "a", "parameters": {"weight": 2}}]
    recipe = load_recipe(ties(models=models, parameters={"int8_mask": True}))
    assert recipe.models == ("a",)
    assert recipe.options["weight"] == [2.0]
    averaged = load_recipe({**ties(models=models[:1] * 2), "merge_method": "linear"})
    assert averaged.models == ("base", "base")  # an average counts the base as one of its models


def test_the_models_must_fit_the_method():
    assert problems(ties(base_model=None)) == ["ties needs 'base_model'"]
    assert problems(ties(models=[{"model": "base"}])) == ["models: lists no model besides the base"]
    slerp = {"merge_method": "slerp", "parameters": {"t": 0.5}}
    assert problems(ties(**slerp)) == ["models: slerp takes the base and exactly one other model"]


def test_mergekits_out_dtype_wins_over_dtype():
    assert load_recipe(ties(dtype="float32", out_dtype="bfloat16")).dtype == "bfloat16"


def located(tmp_path: Path, monkeypatch, *places: str) -> tuple[Recipe, Path, Path]:
    """A recipe in `beside/`, the working folder `here/`, and `model` in each of `places`."""
    beside, here = tmp_path / "beside", tmp_path / "here"
    for place in (beside, here):
        place.mkdir()
    for place in places:
        (tmp_path / place / "model").mkdir()
    (beside / "r.yaml").write_text("merge_method: linear\nmodels: [{model: model}]\n")
    monkeypatch.chdir(here)
    return load_recipe(beside / "r.yaml"), beside, here


def test_a_path_beside_the_recipe_is_found(tmp_path: Path, monkeypatch):
    recipe, beside, _ = located(tmp_path, monkeypatch, "beside")
    assert recipe.find("model") == beside / "model"


def test_a_path_in_the_working_folder_is_found(tmp_path: Path, monkeypatch):
    recipe, _, here = located(tmp_path, monkeypatch, "here")
    assert recipe.find("model").resolve() == here / "model"


def test_a_path_in_both_is_ambiguous_unless_they_are_one(tmp_path: Path, monkeypatch):
    recipe, beside, here = located(tmp_path, monkeypatch, "here", "beside")
    with pytest.raises(RecipeError, match=r"'model' is both beside it .*write the whole"):
        recipe.find("model")
    assert recipe.find(str(here / "model")) == here / "model"
    monkeypatch.chdir(beside)
    assert recipe.find("model") == beside / "model"


def test_a_path_nowhere_is_looked_for_beside_the_recipe(tmp_path: Path, monkeypatch):
    recipe, beside, _ = located(tmp_path, monkeypatch)
    assert recipe.find("model") == beside / "model"


GUARD = {"scores": "a", "density": 0.1, "keep": "a"}


def guarded_ties(**changes: Any) -> dict[str, Any]:
    models = [{"model": "x/a", "locate": {"data": "a.jsonl"}}, {"model": "x/b"}]
    return ties(models=models, guard={**GUARD, **changes})


def test_a_guard_asks_for_scores_of_its_model_alone():
    recipe = load_recipe(guarded_ties())
    assert [source and source.data for source in recipe.sources] == ["a.jsonl", None]
    assert recipe.method.scored_at == ("model",)
    assert recipe.guard is not None
    assert (recipe.guard.model, recipe.guard.density, recipe.guard.keep) == (0, 0.1, "model")
    assert load_recipe(guarded_ties(keep="base")).guard.keep == "base"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": "c"}, "guard.scores: 'c' is no model of this recipe"),
        (
            {"scores": "b", "keep": "b"},
            "models[1]: the guard needs scores; give 'locate: {data: FILE}'",
        ),
        ({"keep": "b"}, "guard.keep: expected 'base' or 'a', found 'b'"),
        ({"density": 2}, "guard.density: "),
    ],
)
def test_a_guard_that_cannot_be_is_refused(change: dict[str, Any], said: str):
    assert any(problem.startswith(said) for problem in problems(guarded_ties(**change)))


def test_a_guard_keeps_no_base_where_the_method_is_given_none():
    linear = {**guarded_ties(keep="base"), "merge_method": "linear"}
    (said,) = problems(linear)
    assert said.startswith("guard.keep: linear is given no base; keep 'a', or choose")
