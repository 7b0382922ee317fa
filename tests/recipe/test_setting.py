"""Options that differ between tensors: filters, gradients, and which level wins."""

from typing import Any

import pytest

from ledmerge.errors import RecipeError
from ledmerge.recipe.recipe import load_recipe
from ledmerge.recipe.setting import Condition, Setting

MLP, ATTENTION, NORM = "layers.1.mlp.up", "layers.1.self_attn.q", "norm"


def slerp(t: Any) -> dict[str, Any]:
    models = [{"model": "base"}, {"model": "a"}]
    return {
        "merge_method": "slerp", "base_model": "base", "models": models, "parameters": {"t": t}
    }  # fmt: skip


def ties(own: Any = None, common: Any = None) -> dict[str, Any]:
    first = {} if own is None else {"weight": own}
    shared = {} if common is None else {"weight": common}
    models = [{"model": "a", "parameters": first}, {"model": "b"}]
    return {"merge_method": "ties", "base_model": "base", "models": models, "parameters": shared}


@pytest.mark.parametrize(
    ("t", "depth", "value"),
    [
        ([0, 1], 0.25, 0.25),
        ([0, 1], 1.0, 1.0),
        ([0, 0.5, 0.3, 0.7, 1], 0.125, 0.25),
        ([0, 0.5, 0.3, 0.7, 1], 0.5, 0.3),
        ([0, 0.5, 0.3, 0.7, 1], 0.625, 0.5),
        ([0.4], 0.7, 0.4),
        (0.4, 0.7, 0.4),
    ],
)
def test_a_gradient_is_linear_between_its_values(t: Any, depth: float, value: float):
    assert load_recipe(slerp(t)).options_for("w", depth) == {"t": pytest.approx(value, abs=1e-15)}


def test_the_first_filter_that_fits_decides():
    by_name = [
        {"filter": "self_attn", "value": [0, 1]},
        {"filter": "mlp", "value": 0.3},
        {"filter": "1.mlp", "value": 0.9},
        {"value": 0.5},
        {"filter": "norm", "value": 0.7},
    ]
    recipe = load_recipe(slerp(by_name))
    values = [recipe.options_for(name, 0.25)["t"] for name in (MLP, ATTENTION, NORM)]
    assert values == [0.3, 0.25, 0.5]
    everything = load_recipe(slerp([{"filter": "mlp", "value": 0.3}, {"filter": "*", "value": 0}]))
    assert everything.options_for(NORM, 0.0) == {"t": 0.0}
    assert load_recipe(slerp({"value": 0.3})).options == {"t": 0.3}


def test_a_setting_that_does_not_depend_on_the_tensor_is_a_plain_value():
    assert load_recipe(slerp([0.4])).options == {"t": 0.4}
    assert load_recipe(slerp([{"value": 0.4}, {"filter": "mlp", "value": 1}])).options["t"] == 0.4


def test_what_a_models_own_filters_let_through_gets_the_common_setting():
    recipe = load_recipe(ties([{"filter": "mlp", "value": 3}], [2, 4]))
    assert recipe.options_for(MLP, 0.5)["weight"] == [3.0, 3.0]
    assert recipe.options_for(NORM, 1.0)["weight"] == [4.0, 4.0]
    assert recipe.options_for(MLP, 0.0)["weight"] == [3.0, 2.0]
    assert load_recipe(ties([{"filter": "x", "value": 3}])).options_for(NORM, 1)["weight"] == [1, 1]


def test_filters_of_a_model_see_the_names_in_that_model():
    recipe = load_recipe(ties(common=[{"filter": "layers.1.", "value": 3}]))
    assert recipe.options_for("layers.1.w", 0, ["layers.1.w", "layers.5.w"])["weight"] == [3, 1]


def test_booleans_hold_up_to_the_next():
    given = {**ties(), "parameters": {"normalize": [True, False, True]}}
    recipe = load_recipe(given)
    found = [recipe.options_for("w", depth)["normalize"] for depth in (0, 0.49, 0.5, 0.99, 1)]
    assert found == [True, True, False, False, True]


WRONG = {
    "a value in a gradient": ([0, "x"], "parameters.t: expected a number, found 'x'"),
    "no value at all": ([], "parameters.t: expected a number, found []"),
    "a gradient in a gradient": ([[0, 1]], "parameters.t: expected a number, found [0, 1]"),
    "a mixed list": (
        [{"value": 0}, 3],
        "parameters.t[1]: expected 'value' and perhaps 'filter', found 3",
    ),
    "a key": (
        [{"filtr": "x", "value": 0}],
        "parameters.t[0]: expected 'value' and perhaps 'filter', found {'filtr': 'x', 'value': 0}",
    ),
    "no value": (
        {"filter": "x"},
        "parameters.t[0]: expected 'value' and perhaps 'filter', found {'filter': 'x'}",
    ),
    "a filter": (
        [{"filter": 3, "value": 0}],
        "parameters.t[0].filter: expected a part of tensors' names, found 3",
    ),
    "a value under a filter": (
        [{"filter": "x", "value": [0, None]}],
        "parameters.t[0].value: expected a number, found None",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_setting_is_named_with_its_place(wrong: str):
    value, said = WRONG[wrong]
    with pytest.raises(RecipeError) as caught:
        load_recipe(slerp(value))
    assert str(caught.value) == f"recipe: {said}"


def test_the_scope_of_a_ranking_is_one_for_all_tensors():
    given = ties()
    given["parameters"]["scope"] = [{"filter": "mlp", "value": "global"}]
    with pytest.raises(RecipeError, match=r"parameters.scope: is one for all tensors"):
        load_recipe(given)


def test_a_setting_reads_back_as_it_was_written():
    written = [{"filter": "mlp", "value": [0.0, 1.0]}, {"value": 0.5}]
    setting = load_recipe(slerp(written)).options["t"]
    assert setting == Setting((Condition("mlp", (0.0, 1.0)), Condition(None, (0.5,))))
    assert setting.as_written() == written
    assert load_recipe(slerp([0, 1])).options["t"].as_written() == [0.0, 1.0]


def test_a_method_works_on_whole_tensors_if_one_tensor_needs_it():
    flat = [{"filter": "mlp", "value": False}, {"value": True}]
    given = {
        "merge_method": "nuslerp",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"nuslerp_flatten": flat},
    }
    assert load_recipe(given).method.grain == "tensor"
    given["parameters"]["nuslerp_flatten"] = [{"filter": "mlp", "value": True}]
    assert load_recipe(given).method.grain == "entry"


def test_what_mergekit_reads_over_is_noted_and_typing_mistakes_are_refused():
    given = {**ties(), "merge_method": "task_arithmetic", "parameters": {"density": 0.5}}
    notes = load_recipe(given).notes
    assert notes == ("parameters: task_arithmetic has no 'density'; it is not read",)
    for wrong in ("densty", "elect"):
        given["parameters"] = {wrong: 0.5}
        with pytest.raises(RecipeError, match=f"'{wrong}' is not known to task_arithmetic"):
            load_recipe(given)


@pytest.mark.parametrize(
    ("method", "parameters", "base", "is_noted"),
    [
        ("linear", {"weight": 1}, "base", True),
        ("karcher", {}, "base", True),
        ("linear", {}, "base", False),
        ("linear", {"weight": 1}, "a", False),
        ("linear", {"weight": 1}, None, False),
    ],
)
def test_a_base_that_mergekit_would_merge_is_noted(method, parameters, base, is_noted: bool):
    given = {"merge_method": method, "models": [{"model": "a"}], "parameters": parameters}
    assert bool(load_recipe({**given, "base_model": base}).notes) == is_noted
