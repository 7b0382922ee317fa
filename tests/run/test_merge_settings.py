"""Merges whose options differ between tensors: each tensor as in a merge with its option alone."""

import json
from pathlib import Path

import yaml
from families import SHAPES, files_of, read_all, recipe, same, write_family

import ledmerge
from ledmerge.run.explain import explain
from ledmerge.run.plan import plan

BY_NAME = [{"filter": "attn", "value": [0.0, 0.8]}, {"filter": "norm", "value": 0.25}, {"value": 1}]
EXPECTED = {
    "model.embed_tokens.weight": 1.0,
    "model.layers.0.attn.weight": 0.0,
    "model.layers.0.norm.weight": 0.25,
    "model.layers.1.attn.weight": 0.8,
    "model.layers.1.scale": 1.0,
    "model.layers.1.none": 1.0,
}


def test_each_tensor_is_merged_by_its_own_option(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    ledmerge.merge(recipe("slerp", base, safety, parameters={"t": BY_NAME}), tmp_path / "out")
    merged = read_all(tmp_path / "out")
    for t in set(EXPECTED.values()):
        out = tmp_path / f"{t}"
        ledmerge.merge(recipe("slerp", base, safety, parameters={"t": t}), out)
        alone = read_all(out)
        for name in SHAPES:
            assert EXPECTED[name] != t or same(merged[name], alone[name]), name
    assert ledmerge.verify(tmp_path / "out", deep=True)["deep"]


def test_models_weigh_differently_in_different_layers(tmp_path: Path):
    base, safety, math, _ = write_family(tmp_path)
    own = [{"weight": [1, 0]}, {"weight": [{"filter": "layers.1.", "value": 0.5}, {"value": 0}]}]
    given = recipe("task_arithmetic", base, safety, math, own=own)
    record = ledmerge.merge(given, tmp_path / "out")
    merged, ours, theirs = (read_all(folder) for folder in (tmp_path / "out", safety, base))
    half = recipe("task_arithmetic", base, math, own=[{"weight": 0.5}])
    ledmerge.merge(half, tmp_path / "half")
    for name in SHAPES:
        first = not name.startswith("model.layers.1")
        expected = ours[name] if first else read_all(tmp_path / "half")[name]
        assert same(merged[name], expected.to(theirs[name].dtype)), name
    weights = [model["parameters"]["weight"] for model in record["recipe"]["models"]]
    assert weights == [[1.0, 0.0], [{"filter": "layers.1.", "value": 0.5}, {"value": 0.0}]]


def test_the_record_and_the_card_are_recipes_of_the_same_merge(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    given = recipe("slerp", base, safety, parameters={"t": BY_NAME})
    record = ledmerge.merge(given, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    shown = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert shown == record["recipe"]
    ledmerge.merge(shown, tmp_path / "again")
    for name in ("model.safetensors", "ledmerge.json"):
        assert files_of(tmp_path / "again")[name] == files_of(tmp_path / "out")[name]


def test_a_plan_shows_the_settings(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    found = plan(recipe("slerp", base, safety, parameters={"t": BY_NAME}))
    facts = found.as_json(threads=1, out=tmp_path / "out")
    assert json.loads(json.dumps(facts["options"])) == {"t": BY_NAME}


def test_a_tensor_without_a_value_is_a_problem(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    found = plan(recipe("slerp", base, safety, parameters={"t": BY_NAME[:2]}))
    assert found.problems == [
        "parameters: 't' has no value for 3 tensors, 'model.layers.1.scale' among them; end its "
        "list with '- value: ...', which is for all that no filter fits"
    ]


def test_a_filter_that_fits_nothing_is_noted(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    t = [{"filter": "mpl", "value": 0.3}, {"value": 0}]
    found = plan(recipe("slerp", base, safety, parameters={"t": t}))
    assert found.notes == ["parameters.t: the filter 'mpl' fits no tensor"]


def test_options_that_do_not_go_together_name_the_tensor(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    own = [{"weight": [1, 0]}, {"weight": [{"filter": "layers.1.", "value": 0}, {"value": 1}]}]
    (problem,) = plan(recipe("linear", None, base, safety, own=own)).problems
    assert problem.startswith("'model.layers.1.scale': linear: the weights sum to 0")


def test_explain_shows_the_options_of_the_tensor(tmp_path: Path):
    base, safety, math, _ = write_family(tmp_path)
    own = [{"weight": [0, 1]}, {"weight": [{"filter": "attn", "value": 0.5}]}]
    given = recipe("ties", base, safety, math, own=own, parameters={"lambda": [2, 4]})
    found = explain(given, "model.layers.1.attn.weight")
    assert found["options"]["lambda"] == 4
    assert [model["options"].get("weight") for model in found["models"]] == [None, 1.0, 0.5]
    copied = explain(given, "model.ids")["options"]
    assert copied["lambda"] == [2.0, 4.0]


def test_tensors_ranked_together_are_cut_at_one_density(tmp_path: Path):
    base, *experts = write_family(tmp_path)
    varied = {"density": [{"filter": "attn", "value": 0.1}, {"value": 0.6}], "scope": "layer"}
    (problem,) = plan(recipe("ties", base, *experts, parameters=varied)).problems
    assert "scope: layer" in problem
    assert "(0.1, 0.1, 0.1)" in problem
    assert "(0.6, 0.6, 0.6)" in problem
    weighed = {"weight": [0.2, 1.0], "density": 0.5, "scope": "layer"}  # selects alike
    assert not plan(recipe("ties", base, *experts, parameters=weighed)).problems
    assert not plan(
        recipe("ties", base, *experts, parameters={**varied, "scope": "tensor"})
    ).problems
