"""Which texts of a recipe become whole paths."""

from pathlib import Path

import pytest

from ledmerge.recipe.rooted import rooted


def test_whole_paths_wherever_a_model_is_named(tmp_path: Path):
    for name in ("base", "safety"):
        (tmp_path / name).mkdir()
    (tmp_path / "rows.jsonl").touch()
    recipe = {
        "merge_method": "led",
        "base_model": "base",
        "models": [
            {"model": "safety", "locate": {"data": "rows.jsonl"}},
            {"model": "owner/math@main"},
        ],
        "parameters": {"disjoint": "priority", "priority": ["safety"]},
    }
    fields = rooted(recipe, tmp_path / "recipe.yaml")
    base, safety = (str(tmp_path / name) for name in ("base", "safety"))
    assert fields["base_model"] == base
    assert fields["models"][0]["model"] == safety
    assert fields["models"][0]["locate"]["data"] == str(tmp_path / "rows.jsonl")
    assert fields["models"][1] == {"model": "owner/math@main"}
    assert fields["parameters"]["priority"] == [safety]
    assert fields["parameters"]["disjoint"] == "priority"


def test_both_parts_of_a_pair_are_whole(tmp_path: Path):
    for name in ("base", "lora"):
        (tmp_path / name).mkdir()
    found = rooted(
        {"merge_method": "led", "models": [{"model": "base+lora"}]}, tmp_path / "recipe.yaml"
    )
    assert found["models"] == [{"model": f"{tmp_path / 'base'}+{tmp_path / 'lora'}"}]


def test_words_are_no_paths_whatever_lies_there(tmp_path: Path):
    """Folders may be called as methods, dtypes, values of options and words of settings are."""
    recipe = {
        "merge_method": "led",
        "base_model": "led",
        "models": [{"model": "share"}, {"model": "bfloat16"}],
        "parameters": {"disjoint": "share", "priority": ["share"]},
        "tokenizer": {"source": "union", "tokens": {"<a>": {"source": "share"}}},
        "chat_template": "t.jinja",
        "guard": {"scores": "share", "density": 0.1, "keep": "base"},
        "keep": [{"filter": "share", "model": "base"}, {"filter": "led", "model": "share"}],
        "dtype": "bfloat16",
    }
    for name in ("led", "share", "bfloat16", "union", "base"):
        (tmp_path / name).mkdir()
    (tmp_path / "t.jinja").touch()
    fields = rooted(recipe, tmp_path / "recipe.yaml")
    share = str(tmp_path / "share")
    assert fields == {
        "merge_method": "led",
        "base_model": str(tmp_path / "led"),
        "models": [{"model": share}, {"model": str(tmp_path / "bfloat16")}],
        "parameters": {"disjoint": "share", "priority": [share]},
        "tokenizer": {"source": "union", "tokens": {"<a>": {"source": share}}},
        "chat_template": str(tmp_path / "t.jinja"),
        "guard": {"scores": share, "density": 0.1, "keep": "base"},
        "keep": [{"filter": "share", "model": "base"}, {"filter": "led", "model": share}],
        "dtype": "bfloat16",
    }


@pytest.mark.parametrize("text", ["{{ messages }}", "a\nb", "x" * 5000 + "{"])
def test_a_template_in_place_is_no_path(tmp_path: Path, text):
    fields = rooted({"merge_method": "led", "chat_template": text}, tmp_path / "recipe.yaml")
    assert fields["chat_template"] == text
