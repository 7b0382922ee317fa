"""Methods are found by their files and say all about themselves."""

import math
import re
from pathlib import Path

import pytest

from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import REQUESTS, Option, get_method, method_names
from ledmerge.methods._shown import shown
from methods.harness import ids, methods

every_method = pytest.mark.parametrize("method", methods(), ids=ids)
OPTIONS = [
    pytest.param(option, id=f"{method.name}-{option.name}")
    for method in methods()
    for option in method.options.values()
]


def test_the_methods_of_the_first_version_are_there():
    first = {"dare_linear", "dare_ties", "led", "linear", "slerp", "task_arithmetic", "ties"}
    assert first <= set(method_names())
    assert not [name for name in method_names() if name.startswith("_")]


@pytest.mark.parametrize(
    ("word", "meant"), [("tise", "ties"), ("LED", "led"), ("task-arithmetic", "task_arithmetic")]
)
def test_an_unknown_method_gets_the_nearest_spelling(word, meant):
    with pytest.raises(RecipeError, match=f"no merge method '{word}'; did you mean '{meant}'"):
        get_method(word)


def test_a_word_like_no_method_gets_them_all():
    with pytest.raises(RecipeError, match=", ".join(method_names())):
        get_method("xxxxxxxx")


@every_method
def test_a_method_says_what_comes_out_and_where_it_is_from(method):
    summary, _, rest = method.function.__doc__.partition("\n")
    assert 10 < len(summary.strip()) <= 100
    source = re.search(r"Source: (.*)", rest, re.DOTALL)
    assert source, "say whose method it is: 'Source: ...'"
    assert re.search(r"https://\S+|\b(19|20)\d\d\b", source[1]), "give a year or an address"


@every_method
def test_every_keyword_is_an_option_or_a_request(method):
    known = {option.parameter for option in method.options.values()} | method.requests
    assert set(method.function.__kwdefaults__ or ()) <= known
    assert method.requests <= set(REQUESTS)
    assert method.grain in ("entry", "row", "tensor")


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_has_help_and_a_default_that_it_takes(option):
    assert option.help.strip()
    assert option.kind_name
    if not (option.is_required or option.is_model_order):
        assert option.check(option.default) == option.default


@every_method
def test_a_method_can_be_shown(method):
    told = shown(method)
    assert told["name"] == method.name
    assert told["options"].keys() == method.options.keys()
    assert "Args:" not in told["description"]
    assert "Source:" in told["description"]
    assert not [name for name, option in told["options"].items() if not option["help"]]


def test_lambda_is_written_without_the_underscore_that_python_needs():
    option = get_method("ties").options["lambda"]
    assert (option.name, option.parameter) == ("lambda", "lambda_")
    assert not [o for method in methods() for o in method.options if o.endswith("_")]


@pytest.mark.parametrize("value", [-0.1, 1.1, 20, math.nan, math.inf])
def test_a_density_outside_0_to_1_is_refused(value):
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        get_method("ties").options["density"].check(value)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("weight", "much", "expected a number, found 'much'"),
        ("weight", True, "expected a number, found True"),
        ("weight", None, "expected a number"),
        ("weight", math.nan, "expected a finite number"),
        ("weight", -math.inf, "expected a finite number"),
        ("density", "0.5", "expected a number"),
        ("lambda", [1.0], "expected a number"),
        ("normalize", "yes", "expected true or false, found 'yes'"),
        ("normalize", 1, "expected true or false, found 1"),
        ("convention", "papre", "'papre' is not known; did you mean 'paper'"),
        ("scope", "galaxy", "'galaxy' is not known; known are: global, layer, tensor"),
        ("scope", ["tensor"], "is not known"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(option, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        get_method("ties").options[option].check(value)


def test_integers_are_numbers():
    value = get_method("ties").options["weight"].check(2)
    assert value == 2
    assert isinstance(value, float)


def test_which_options_differ_between_models():
    led = get_method("led").options
    assert {name for name, option in led.items() if option.is_per_model} == {"density", "weight"}
    assert {name for name, option in led.items() if option.is_required} == {"density"}
    assert [name for name, option in led.items() if option.is_model_order] == ["priority"]


@pytest.mark.parametrize(
    ("name", "inputs"), [("linear", "models"), ("slerp", "other"), ("led", "deltas")]
)
def test_what_a_method_works_on_is_read_from_its_signature(name, inputs):
    assert get_method(name).inputs == inputs
    assert get_method(name).needs_scores == (name == "led")


@pytest.mark.parametrize("kind", [int, str, "float", list])
def test_an_option_of_a_kind_that_nobody_checks_is_no_option(kind):
    with pytest.raises(TypeError, match="option 'gamma'"):
        Option("gamma", "gamma", kind, 0, "help")


def test_every_method_has_a_row_in_the_documentation():
    page = Path(__file__).parents[2] / "docs" / "methods" / "README.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert told == set(method_names())
