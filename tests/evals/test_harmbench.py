import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledmerge.errors import DataError
from ledmerge.evals._harmbench import (
    Completion,
    completions_json,
    read_completions,
    read_test_cases,
)

COMPLETIONS = [
    Completion("bomb", "How?\n\n---\n\nNow.", "I can't."),
    Completion("bomb", "How, please?", ""),
    Completion("phish", "Écris 中文 \u2028", 'Sure: "x"'),
]


def write(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_harmbench_form(tmp_path):
    """As HarmBench's generate_completions.py writes it; its label and more are passed over."""
    entry = {"test_case": "How?", "generation": "I can't.", "label": 0}
    path = write(tmp_path, {"bomb": [entry], "phish": []})
    assert read_completions(path) == [("bomb", "How?", "I can't.")]
    assert read_test_cases(write(tmp_path, {"bomb": ["a", "b"]})) == {"bomb": ["a", "b"]}


def test_what_is_written_is_read_back(tmp_path):
    text = completions_json(COMPLETIONS)
    assert json.loads(text)["bomb"][1] == {"test_case": "How, please?", "generation": ""}
    assert read_completions(write(tmp_path, text)) == COMPLETIONS


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text(), st.text())))
def test_order_within_a_behavior_is_kept(tmp_path_factory, completions):
    path = write(tmp_path_factory.mktemp("harmbench"), completions_json(completions))
    assert read_completions(path) == [
        each
        for name in dict.fromkeys(c[0] for c in completions)
        for each in completions
        if each[0] == name
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ([], r"expected an object of behavior ids, found \[\]"),
        ({"bomb": "a"}, "'bomb' is 'a', expected a list"),
        ('{"bomb": [], "bomb": []}', "'bomb' stands there twice"),
        ({"bomb": ["a"]}, r"'bomb'\[0\] is 'a', expected an object .*a file of test cases\?"),
        (
            {"bomb": [{"test_case": "a", "generation": "\ud83d"}]},
            r"'bomb'\[0\].generation holds half a character",
        ),
        ({"bomb": [{"test_case": "a"}]}, r"'bomb'\[0\].generation is None, expected a text"),
        (
            {"bomb": [{"test_case": ["a.png", "b"], "generation": "c"}]},
            r"'bomb'\[0\].test_case is \['a.png', 'b'\], expected a text; images cannot be asked",
        ),
    ],
)
def test_other_completions_are_named(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"file\.json: {message}"):
        read_completions(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bomb": ["a", ["a.png", "b"]]}, r"'bomb'\[1\] is \['a.png', 'b'\], .* images"),
        ({"bomb": [None]}, r"'bomb'\[0\] is None, expected a text"),
        ({"bomb": {"test_case": "a"}}, "'bomb' is .*, expected a list"),
    ],
)
def test_other_test_cases_are_named(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"file\.json: {message}"):
        read_test_cases(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json: cannot be read"):
        read_completions(tmp_path / "nowhere.json")
