"""YAML's yes and no, and numbers in quotes, where a file asks for a number or a switch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledmerge.errors import RecipeError
from ledmerge.recipe.read import read_recipes
from ledmerge.recipe.search import load_search
from ledmerge.recipe.suite import load_suite
from ledmerge.recipe.synthesis import load_synthesis

FORMS: dict[Callable[[Path], Any], tuple[str, list[str]]] = {
    read_recipes: (
        "merge_method: linear\n",
        [
            "seed: yes",
            'seed: "7"',
            "dequantize: 1",
            'dequantize: "no"',
            "locate: {samples: yes}",
            'locate: {max_length: "9"}',
            "locate: {batch: on}",
            "locate: {checkpointing: 1}",
            "guard: {density: yes, scores: a, keep: base}",
            'guard: {density: "0.5", scores: a, keep: base}',
            "slices: [{sources: [{layer_range: [no, 2], model: a}]}]",
            'slices: [{sources: [{layer_range: [0, "2"], model: a}]}]',
            "slices: [{residual_weight: yes, sources: [{layer_range: [0, 2], model: a}]}]",
            "tokenizer: {pad_to_multiple_of: yes}",
            "tokenizer: {tokens: {x: {force: 1, source: a}}}",
            "tokenizer: {tokens: {x: {source: {token_id: yes, kind: model_token, model: a}}}}",
        ],
    ),
    load_suite: (
        "benchmarks: {harm: {data: a}}\n",
        [
            "batch: yes",
            'max_new_tokens: "9"',
            "lm_eval: {shots: no, tasks: [a]}",
            "lm_eval: {samples: yes, tasks: [a]}",
            'lm_eval: {chat: "off", tasks: [a]}',
        ],
    ),
    load_synthesis: (
        "",
        [
            "rows: {a: {count: yes, prompts: p, models: [m]}}",
            "seed: no\nrows: {a: {prompts: p, models: [m]}}",
            "batch: on\nrows: {a: {prompts: p, models: [m]}}",
        ],
    ),
    load_search: (
        "recipe: recipe.yaml\nsuite: s\n",
        [
            "objective: {a.b: yes}\nvary: {seed: [1, 2]}",
            'objective: {a.b: "1"}\nvary: {seed: [1, 2]}',
            "trials: yes\nobjective: {a.b: 1}\nvary: {seed: [1, 2]}",
            "seed: no\nobjective: {a.b: 1}\nvary: {seed: [1, 2]}",
            'vary: {seed: {low: "0", high: 1}}\nobjective: {a.b: 1}',
            "vary: {seed: {high: yes, low: 0}}\nobjective: {a.b: 1}",
            "vary: {seed: {step: yes, low: 0, high: 2}}\nobjective: {a.b: 1}",
            "vary: {seed: {log: 1, low: 1, high: 2}}\nobjective: {a.b: 1}",
        ],
    ),
}
CASES = [(read, form, wrong) for read, (form, all_) in FORMS.items() for wrong in all_]


@pytest.mark.parametrize(("read", "form", "wrong"), CASES, ids=[case[2] for case in CASES])
def test_a_switch_or_a_text_is_no_number(tmp_path: Path, read, form: str, wrong: str):
    (tmp_path / "recipe.yaml").write_text("merge_method: linear\nmodels: [{model: a}]\n")
    path = tmp_path / "file.yaml"
    path.write_text(form + wrong)
    with pytest.raises(RecipeError) as caught:
        read(path)
    (said,) = str(caught.value).splitlines()
    assert any(word in said for word in ("expected a whole number", "a number", "true or false"))


def test_a_whole_number_may_be_written_with_a_point(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("merge_method: linear\nseed: 2.0\nlocate: {samples: 1e2}")
    (recipe,) = read_recipes(tmp_path / "recipe.yaml")
    assert (recipe.seed, recipe.locate.samples) == (2, 100)
