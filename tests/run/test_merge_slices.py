"""Results whose layers come from here and there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from families import read_all, same, stop_after, write_model

import ledmerge
from ledmerge.errors import RecipeError
from ledmerge.run.explain import explain
from ledmerge.run.plan import plan

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
OUTSIDE = (EMBEDDING, NORM, HEAD)


def layer(number: int) -> str:
    return f"model.layers.{number}.mlp.weight"


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """base, math and code: three layers, every tensor other than any other."""
    made = []
    for seed, name in enumerate(("base", "math", "code")):
        draw = torch.Generator().manual_seed(seed)
        names = (*OUTSIDE, *map(layer, range(3)))
        tensors = {each: torch.randn(5, 7, generator=draw) for each in names}
        types = {"num_hidden_layers": 3, "layer_types": ["full", "sliding", name]}
        made.append(write_model(tmp_path / name, tensors, **types))
    return made


def source(model: Path, first: int, end: int, **parameters: Any) -> dict[str, Any]:
    entry = {"model": str(model), "layer_range": [first, end]}
    return {**entry, "parameters": parameters} if parameters else entry


def stack(*slices: list[dict[str, Any]], method: str = "passthrough", **more: Any) -> dict:
    return {"merge_method": method, "slices": [{"sources": each} for each in slices], **more}


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_layers_are_put_on_top_of_one_another(three: list[Path], tmp_path: Path):
    _, math, code = three
    out = tmp_path / "out"
    record = ledmerge.merge(stack([source(math, 0, 2)], [source(code, 1, 3)]), out)
    made, first, second = (read_all(folder) for folder in (out, math, code))
    expected = {
        EMBEDDING: first[EMBEDDING],
        layer(0): first[layer(0)],
        layer(1): first[layer(1)],
        layer(2): second[layer(1)],
        layer(3): second[layer(2)],
        NORM: second[NORM],
        HEAD: second[HEAD],
    }
    assert made.keys() == expected.keys()
    assert all(same(made[name], tensor) for name, tensor in expected.items())
    assert config_of(out)["num_hidden_layers"] == 4
    assert config_of(out)["layer_types"] == ["full", "sliding", "sliding", "math"]
    assert config_of(math)["num_hidden_layers"] == 3
    assert record["summary"]["models"] == ["math", "code"]
    assert set(ledmerge.verify(out, deep=True)["deep"]) == expected.keys()


def test_slices_are_merged_as_whole_models_are(three: list[Path], tmp_path: Path):
    base, math, code = map(str, three)
    own = {"weight": 0.5}
    whole = {
        "merge_method": "task_arithmetic",
        "base_model": base,
        "models": [{"model": math, "parameters": own}, {"model": code}],
        "parameters": {"lambda": 0.7, "weight": 0.3},
    }
    ranges = ((0, 1), (1, 3))
    sliced = {key: value for key, value in whole.items() if key != "models"} | {
        "slices": [
            {"sources": [source(three[0], *r), source(three[1], *r, **own), source(three[2], *r)]}
            for r in ranges
        ]
    }
    one, other = (
        ledmerge.merge(recipe, tmp_path / name) for recipe, name in ((whole, "a"), (sliced, "b"))
    )
    found, expected = read_all(tmp_path / "b"), read_all(tmp_path / "a")
    assert found.keys() == expected.keys()
    assert all(same(found[name], tensor) for name, tensor in expected.items())
    assert config_of(tmp_path / "b") == config_of(tmp_path / "a")
    assert other["summary"]["norm"] == pytest.approx(one["summary"]["norm"])


def test_figures_of_different_experts_are_kept_apart(three: list[Path], tmp_path: Path):
    base, math, code = three
    given = stack(
        [source(base, 0, 2), source(math, 0, 2)],
        [source(base, 2, 3), source(code, 2, 3)],
        method="task_arithmetic",
        base_model=str(base),
    )
    record = ledmerge.merge(given, tmp_path / "out")
    theirs, own = read_all(base), [read_all(math), read_all(code)]
    parts = ((EMBEDDING, layer(0), layer(1)), (layer(2), NORM, HEAD))
    norms = [
        torch.cat([tensors[name] - theirs[name] for name in names]).norm().item()
        for tensors, names in zip(own, parts, strict=True)
    ]
    assert record["summary"]["norm"] == pytest.approx(norms, rel=1e-5)
    assert record["summary"]["cosine"][0][1] == 0
    sources = [Path(each["path"]).name for each in record["inputs"]]
    assert sources == ["base", "math", "base", "code"]


def test_parameters_of_a_slice_win_over_the_recipes(three: list[Path], tmp_path: Path):
    _, math, _ = three
    given = stack([source(math, 0, 1)], [source(math, 0, 2, scale=[2, 4])], [source(math, 0, 3)])
    given["slices"][2]["parameters"] = {"scale": 0.5}
    given["parameters"] = {"scale": 8}
    ledmerge.merge(given, tmp_path / "out")
    made, ours = read_all(tmp_path / "out"), read_all(math)
    scales = {0: (0, 8), 1: (0, 2), 2: (1, 4), 3: (0, 0.5), 4: (1, 0.5), 5: (2, 0.5)}
    for number, (old, scale) in scales.items():
        assert same(made[layer(number)], ours[layer(old)] * scale)
    assert same(made[EMBEDDING], ours[EMBEDDING] * 8)
    assert same(made[HEAD], ours[HEAD] * 0.5)


def test_the_record_is_a_recipe_of_the_same_merge(three: list[Path], tmp_path: Path):
    base, math, code = three
    t = [{"filter": "layers.0", "value": [0.1, 0.9]}, {"value": 0.3}]
    given = stack(
        [source(base, 0, 2), source(math, 1, 3)],
        [source(code, 0, 2), source(math, 0, 2)],
        method="slerp",
        base_model=str(base),
        parameters={"t": t},
        out_dtype="bfloat16",
    )
    given["slices"][1] |= {"base_model": str(code), "parameters": {"t": 0.6}}
    record = ledmerge.merge(given, tmp_path / "out")
    again = ledmerge.merge(yaml.safe_load(yaml.safe_dump(record["recipe"])), tmp_path / "again")
    assert again == record
    assert record["recipe"]["slices"][1]["base_model"] == str(code)


def test_an_interrupted_stack_is_taken_up(three: list[Path], tmp_path: Path):
    _, math, code = three
    given = stack([source(math, 0, 2)], [source(code, 1, 3)])
    expected = ledmerge.merge(given, tmp_path / "whole")
    for count in (1, 4, 6):
        with pytest.raises(KeyboardInterrupt):
            ledmerge.merge(given, tmp_path / "out", threads=1, progress=stop_after(count))
        assert ledmerge.merge(given, tmp_path / "out", resume=True) == expected
        ledmerge.merge(given, tmp_path / "out", overwrite=True)
        for path in (tmp_path / "out").iterdir():
            path.unlink()


def problems_of(given: dict[str, Any]) -> list[str]:
    try:
        return plan(given).problems
    except RecipeError as error:
        return [line.removeprefix("recipe: ") for line in str(error).splitlines()]


def test_a_plan_shows_the_slices(three: list[Path], tmp_path: Path):
    _, math, code = three
    found = plan(stack([source(math, 0, 2)], [source(code, 1, 3, scale=2)]))
    facts = json.loads(json.dumps(found.as_json(threads=1, out=tmp_path)))
    assert facts["slices"] == [
        {"models": [str(math)], "tensors": 3, "options": {"scale": [1.0]}},
        {"models": [str(code)], "tensors": 4, "options": {"scale": [2.0]}},
    ]
    assert facts["bytes_in"] == facts["bytes_out"] == 7 * 5 * 7 * 4


def test_layers_that_are_not_there_are_named(three: list[Path]):
    _, math, code = three
    assert problems_of(stack([source(math, 0, 2)], [source(code, 1, 4)])) == [
        "slices[1]: layers 1 to 3 of code, which has layers 0 to 2"
    ]


def test_models_of_several_stacks_are_refused(tmp_path: Path):
    names = ("vision.blocks.0.w", "model.layers.0.w")
    folder = write_model(tmp_path / "two", {name: torch.ones(2) for name in names})
    (said,) = problems_of(stack([source(folder, 0, 1)]))
    assert said.startswith("slices: two should have one stack of layers, but has: ")


def test_a_config_that_cannot_tell_the_layers_is_refused(tmp_path: Path):
    folder = write_model(tmp_path / "a", {layer(0): torch.ones(2), layer(1): torch.ones(2)})
    assert problems_of(stack([source(folder, 0, 2)])) == []
    (said,) = problems_of(stack([source(folder, 0, 1)]))
    assert said.endswith(
        "says nowhere that the model has 2 layers, so that the result's 1 cannot be written there"
    )


def test_heads_that_the_config_does_not_expect_are_refused(three: list[Path], tmp_path: Path):
    _, math, _ = three
    tied = read_all(math)
    config = {"num_hidden_layers": 3, "tie_word_embeddings": True}
    tied = write_model(tmp_path / "tied", tied, **config)
    (said,) = problems_of(stack([source(math, 0, 1)], [source(tied, 0, 1)]))
    assert said.startswith("'lm_head.weight' is in math but not in tied; math gives the config")
    (said,) = problems_of(stack([source(tied, 0, 1)], [source(math, 0, 1)]))
    assert said.startswith("'lm_head.weight' is in math but not in tied; tied gives the config")
    assert problems_of(stack([source(tied, 0, 1)], [source(tied, 0, 1)])) == []


def test_slices_that_cannot_be_are_told_before_anything_is_opened():
    a, b = Path("a"), Path("b")
    assert problems_of(stack([source(a, 0, 2), source(b, 0, 1)], method="linear")) == [
        "slices[0].sources: expected layers of equal number, found 2, 1"
    ]
    ties = stack([source(a, 0, 2), source(b, 0, 2)], method="ties", base_model="c")
    assert problems_of(ties) == [
        "slices[0].sources: lists no layers of the base, c, which ties needs; "
        "add `- {model: c, layer_range: [0, 2]}`"
    ]
    alone = stack([source(a, 0, 2)], method="ties", base_model="a")
    assert problems_of(alone) == ["slices[0].sources: lists no model besides the base"]
    for method, needed in (("led", "scores"), ("regmean", "Gram matrices")):
        bare = stack([source(a, 0, 2), source(b, 0, 2)], method=method, base_model="a")
        bare["parameters"] = {"density": 0.1} if method == "led" else {}
        said = problems_of(bare)[-1]
        assert said.startswith(f"slices[0].sources[1]: {method} needs {needed}; give 'locate: ")
    (said,) = problems_of(stack([source(a, 0, 2), source(b, 0, 2)], method="emr", base_model="a"))
    assert said.startswith("slices: emr keeps masks, by which each task's model is rebuilt on the ")
    wide = stack(
        *[[source(a, 0, 2), source(b, 0, 2)]] * 2,
        method="ties",
        base_model="a",
        parameters={"scope": "global"},
    )
    (said,) = problems_of(wide)
    assert said == "parameters.scope: global ranks a whole model; with slices, use layer"
    (said,) = problems_of(stack([source(a, 2, 2)]))
    assert said == "slices[0].sources[0].layer_range: holds no layer, found [2, 2]"


def test_a_recipe_says_once_what_is_merged():
    both = {**stack([source(Path("a"), 0, 1)]), "models": [{"model": "a"}]}
    for given in (both, {"merge_method": "linear"}, {**both, "modules": {"default": {}}}):
        said = problems_of(given)
        assert "expected exactly one of 'models', 'slices' and 'modules'" in said
    vision = {"vision_tower": stack([source(Path("a"), 0, 1)])}
    vision["vision_tower"].pop("merge_method")
    (said,) = problems_of({"merge_method": "passthrough", "modules": vision})
    assert said.startswith("modules.vision_tower: slices of a part whose layers")


def test_explain_shows_the_options_of_the_slice(three: list[Path]):
    _, math, code = three
    given = stack([source(math, 0, 2)], [source(code, 1, 3, scale=[2, 4])])
    found = explain(given, layer(3))
    assert [(model["model"], model["options"]) for model in found["models"]] == [
        ("code", {"scale": 4.0})
    ]
    assert [model["tensor"] for model in found["models"]] == [layer(2)]


def test_a_model_of_several_slices_is_compared_with_its_config_once(
    three: list[Path], tmp_path: Path, monkeypatch
):
    asked = []
    monkeypatch.setattr("ledmerge.run.merge.check_ties", lambda model: asked.append(model.name))
    base, math, _ = three
    both = [[source(base, n, n + 1), source(math, n, n + 1)] for n in range(3)]
    ledmerge.merge(stack(*both, method="linear", base_model=str(base)), tmp_path / "out")
    assert sorted(asked) == ["base", "math"]
