"""Tensors kept from one model by patterns on their names, beside those that are merged."""

import json
from pathlib import Path

import pytest
import torch
from families import (
    base_tensors,
    expert_tensors,
    random_scores,
    read_all,
    recipe,
    same,
    write_family,
    write_model,
    write_scores,
)
from safetensors.torch import load_file

import ledmerge
from ledmerge.errors import RecipeError
from ledmerge.run.plan import plan


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_family(tmp_path)
    return tmp_path


def keeping(home: Path, *entries: tuple[str, str], method: str = "ties", **fields: object) -> dict:
    given = recipe(method, home / "base", home / "safety", home / "math", **fields)
    named = (("base" if model == "base" else str(home / model), text) for text, model in entries)
    return {**given, "keep": [{"filter": text, "model": model} for model, text in named]}


def test_kept_tensors_have_their_models_bits_and_the_others_are_merged(home: Path):
    given = keeping(home, ("embed_tokens", "math"), ("layers.*.norm", "base"), ("ids", "code"))
    record = ledmerge.merge(given, home / "out")
    plain = recipe("ties", home / "base", home / "safety", home / "math")
    ledmerge.merge(plain, home / "plain")
    made, merged = read_all(home / "out"), read_all(home / "plain")
    math = load_file(home / "math" / "model.safetensors")
    kept = {
        "model.embed_tokens.weight": math["model.embed_tokens.weight"],  # float32, as there
        "model.layers.0.norm.weight": base_tensors()["model.layers.0.norm.weight"],
    }
    assert made.keys() == merged.keys()
    for name, tensor in made.items():
        assert same(tensor, kept.get(name, merged[name])), name
    reasons = {name: line["reason"] for name, line in record["tensors"].items()}
    assert reasons["model.embed_tokens.weight"] == "kept from math"
    assert reasons["model.ids"] == "kept from code"
    assert len(ledmerge.verify(home / "out", deep=True)["deep"]) == len(made)
    assert [each["model"] for each in record["inputs"]] == ["base", "safety", "math", "code"]
    card = (home / "out" / "README.md").read_text()
    assert "from the base `base` and\n\n- safety\n- math\n- code\n" in card


def test_the_first_filter_that_fits_holds(home: Path):
    given = keeping(home, ("layers.0.attn", "safety"), ("layers.*", "base"))
    ledmerge.merge(given, home / "out")
    made, safety = read_all(home / "out"), load_file(home / "safety" / "model.safetensors")
    name = "model.layers.{}.attn.weight"
    assert same(made[name.format(0)], safety[name.format(0)])
    assert same(made[name.format(1)], base_tensors()[name.format(1)])


def test_a_dtype_of_the_recipe_is_that_of_kept_tensors_too(home: Path):
    given = keeping(home, ("embed_tokens", "math"), ("ids", "base"), dtype="float16")
    ledmerge.merge(given, home / "out")
    math = load_file(home / "math" / "model.safetensors")
    made = read_all(home / "out")
    assert same(
        made["model.embed_tokens.weight"], math["model.embed_tokens.weight"].to(torch.float16)
    )
    assert made["model.ids"].dtype == torch.int64


def test_models_need_not_have_what_is_kept_nor_agree_on_it(home: Path):
    tower = {"vision_tower.weight": torch.randn(3, 5), "vision_tower.ids": torch.arange(3)}
    write_model(home / "seeing", {**base_tensors(), **tower})
    blind = expert_tensors(1)  # fine-tuned without the tower
    write_model(home / "safety", blind)
    write_model(home / "math", {**expert_tensors(2), "vision_tower.ids": torch.arange(4)})
    given = recipe("ties", home / "seeing", home / "safety", home / "math")
    with pytest.raises(RecipeError, match=r"'vision_tower.weight' is in seeing but not in safety"):
        ledmerge.merge(given, home / "out")
    given["keep"] = [{"filter": "vision_tower", "model": "base"}]
    ledmerge.merge(given, home / "out")
    made = read_all(home / "out")
    assert all(same(made[name], tensor) for name, tensor in tower.items())


def test_led_keeps_too(home: Path):
    sets = {
        "scores": write_scores(home / "own", home / "safety", random_scores(1)),
        "base_scores": write_scores(home / "bases", home / "base", random_scores(2)),
    }
    given = {
        "merge_method": "led",
        "base_model": str(home / "base"),
        "models": [
            {
                "model": str(home / "safety"),
                "parameters": {"density": 0.5},
                **{key: str(folder) for key, folder in sets.items()},
            }
        ],
        "keep": [{"filter": "embed_tokens", "model": str(home / "code")}],
    }
    ledmerge.merge(given, home / "out")
    code = load_file(home / "code" / "model.safetensors")
    made = read_all(home / "out")
    assert same(made["model.embed_tokens.weight"], code["model.embed_tokens.weight"])


def test_what_cannot_be_kept_is_said(home: Path):
    lacking = expert_tensors(3)
    del lacking["model.layers.1.scale"]
    lacking["model.layers.0.norm.weight"] = torch.ones(5)
    write_model(home / "code", lacking)
    given = keeping(home, ("scale", "code"), ("norm", "code"), ("no such", "base"))
    found = plan(given)
    assert found.problems == [
        "keep: 'model.layers.0.norm.weight' is (5,) in code but (99,) in base",
        "keep: 'model.layers.1.scale' is in base but not in code",
    ]
    assert "keep: 'no such' fits no tensor" in found.notes
    slices = [{"sources": [{"model": str(home / "base"), "layer_range": [0, 1]}]}]
    wrong = {
        "keep: goes with 'models'": {"merge_method": "passthrough", "slices": slices},
        r"keep\[0\].model: 'base', but there is no 'base_model'": {
            "merge_method": "linear",
            "models": [{"model": str(home / "base")}],
        },
    }
    for said, fields in wrong.items():
        with pytest.raises(RecipeError, match=said):
            plan({**fields, "keep": [{"filter": "x", "model": "base"}]})
    with pytest.raises(RecipeError, match=r"keep.*filtr"):
        plan({**given, "keep": [{"filtr": "x", "model": "base"}]})
    assert json.dumps(plan(keeping(home, ("attn", "base"))).as_json(1, home))
