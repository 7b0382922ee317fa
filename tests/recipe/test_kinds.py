"""A recipe, suite, search or synthesis that is given to the command for another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledmerge.errors import RecipeError
from ledmerge.recipe.adapters import load_adapter_recipe
from ledmerge.recipe.recipe import load_recipe
from ledmerge.recipe.search import load_search
from ledmerge.recipe.suite import load_suite
from ledmerge.recipe.synthesis import load_synthesis

FILES = {
    "recipe": ("merge_method: linear\nmodels: [{model: a}]\ndtype: float32\n", "merge_method"),
    "suite": ("benchmarks: {harm: {data: a.jsonl}}\nbatch: 8\ndtype: float32\n", "benchmarks"),
    "search": ("recipe: r\nsuite: s\nobjective: {a.b: 1}\nvary: {seed: [1, 2]}\n", "objective"),
    "synthesis": ("rows: {a: {prompts: p.jsonl, models: [m]}}\nseed: 0\n", "rows"),
}
COMMANDS = {
    "recipe": "`ledmerge merge`",
    "suite": "`ledmerge evaluate --suite`",
    "search": "`ledmerge search`",
    "synthesis": "`ledmerge synthesize`",
}
READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "merge": (load_recipe, "recipe"),
    "adapters": (load_adapter_recipe, "recipe"),
    "evaluate": (load_suite, "suite"),
    "search": (load_search, "search"),
    "synthesize": (load_synthesis, "synthesis"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_another_kind_is_told_in_one_line(tmp_path: Path, kind: str, reader: str):
    read, expected = READERS[reader]
    if kind == expected:
        return
    path = tmp_path / "file.yaml"
    text, mark = FILES[kind]
    path.write_text(text)
    with pytest.raises(RecipeError) as raised:
        read(path)
    assert str(raised.value) == (
        f"{path}: looks like a {kind} ('{mark}'), not a {expected}; give it to {COMMANDS[kind]}"
    )


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", ["", "[a]", "3"])
def test_a_file_without_keys_is_told_which_are_expected(tmp_path: Path, reader: str, text: str):
    read, _ = READERS[reader]
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"file.yaml: expected keys such as '\w+:'"):
        read(path)


def test_a_recipe_with_a_key_of_a_suite_is_still_read_as_a_recipe(tmp_path: Path):
    path = tmp_path / "file.yaml"
    path.write_text(FILES["recipe"][0] + "benchmarks: {}\n")
    with pytest.raises(RecipeError, match=r"'benchmarks' is not known"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("method", "read", "said"),
    [
        ("svd", load_recipe, "'svd' merges adapters into an adapter; give it to `ledmerge adapt"),
        ("ties", load_adapter_recipe, "'ties' merges models; give it to `ledmerge merge`, or take"),
    ],
)
def test_a_method_of_the_other_command_is_told_where_it_belongs(method, read, said):
    with pytest.raises(RecipeError) as raised:
        read({"merge_method": method, "models": [{"model": "a"}], "parameters": {"rank": 4}})
    assert str(raised.value).startswith(f"recipe: merge_method: {said}")
