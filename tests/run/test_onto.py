"""Experts added one by one to a merge, without those that went in before."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from families import (
    SHAPES,
    base_tensors,
    expert_tensors,
    files_of,
    read_all,
    recipe,
    same,
    stop_after,
    write_family,
    write_model,
)
from typer.testing import CliRunner

import ledmerge
from ledmerge.cli.app import app
from ledmerge.errors import CheckpointError, RecipeError
from ledmerge.run.explain import explain
from ledmerge.run.plan import plan

CLOSE = 1e-5
"""Of the length of the change, where weights are stored in float32."""


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> list[Path]:
    return write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def merged(family) -> Path:
    """Of safety and math, in float32."""
    base, safety, math, _ = family
    out = base.parent / "merged"
    ledmerge.merge(recipe("opcm", base, safety, math, dtype="float32"), out)
    return out


def add_code(family: list[Path], **fields: Any) -> dict[str, Any]:
    """A recipe with the last expert alone."""
    return recipe("opcm", family[0], family[3], **{"dtype": "float32", **fields})


def assert_close(one: Path, other: Path, base: Path) -> None:
    ours, theirs, start = read_all(one), read_all(other), read_all(base)
    assert ours.keys() == theirs.keys()
    for name in SHAPES:
        length = (theirs[name] - start[name].float()).norm()
        assert (ours[name] - theirs[name]).norm() <= CLOSE * length, name
    for name in ours.keys() - SHAPES.keys():
        assert same(ours[name], theirs[name])


def test_one_expert_later_is_all_at_once(family, merged, tmp_path: Path):
    record = ledmerge.merge(add_code(family), tmp_path / "later", onto=merged)
    ledmerge.merge(recipe("opcm", *family, dtype="float32"), tmp_path / "once")
    assert_close(tmp_path / "later", tmp_path / "once", family[0])
    assert record["recipe"]["onto"] == str(merged)
    assert [each["model"] for each in record["recipe"]["models"]] == [str(family[3])]
    earlier = json.loads((merged / "ledmerge.json").read_text())
    assert record["onto"] == {key: earlier[key] for key in ("digest", "recipe")}
    once = json.loads((tmp_path / "once" / "ledmerge.json").read_text())
    for name, line in once["tensors"].items():
        if name in SHAPES and line["inputs"]:
            figures = record["tensors"][name]["figures"]
            assert len(figures["lengths"]) == 3
            assert figures["lengths"] == pytest.approx(line["figures"]["lengths"], rel=1e-12)
            assert figures["merged"] == pytest.approx(line["figures"]["merged"], rel=1e-5)


def test_one_by_one_is_all_at_once(family, tmp_path: Path):
    base, *experts = family
    ledmerge.merge(recipe("opcm", base, experts[0], dtype="float32"), tmp_path / "1")
    for number, expert in enumerate(experts[1:], start=1):
        given = recipe("opcm", base, expert, dtype="float32", onto=str(tmp_path / str(number)))
        record = ledmerge.merge(given, tmp_path / str(number + 1))
    assert record["onto"]["onto"]["recipe"]["models"] == [{"model": str(experts[0])}]
    ledmerge.merge(recipe("opcm", *family, dtype="float32"), tmp_path / "once")
    assert_close(tmp_path / "3", tmp_path / "once", base)


def test_several_may_be_added_together(family, tmp_path: Path):
    base, *experts = family
    ledmerge.merge(recipe("opcm", base, experts[0], dtype="float32"), tmp_path / "one")
    given = recipe("opcm", base, *experts[1:], dtype="float32")
    ledmerge.merge(given, tmp_path / "later", onto=tmp_path / "one")
    ledmerge.merge(recipe("opcm", *family, dtype="float32"), tmp_path / "once")
    assert_close(tmp_path / "later", tmp_path / "once", base)


def test_the_flag_is_the_key(family, merged, tmp_path: Path):
    ledmerge.merge(add_code(family), tmp_path / "flag", onto=merged)
    ledmerge.merge(add_code(family, onto=str(merged)), tmp_path / "key", threads=1)
    flag, key = (files_of(tmp_path / name) for name in ("flag", "key"))
    assert flag["model.safetensors"] == key["model.safetensors"]
    assert json.loads(flag["ledmerge.json"]) == json.loads(key["ledmerge.json"])
    with pytest.raises(RecipeError, match=r"says 'onto: .*merged', and --onto is other; give one"):
        plan(add_code(family, onto=str(merged)), onto="other")


def test_it_is_planned_and_explained(family, merged):
    found = plan(add_code(family, onto=str(merged)))
    assert not found.problems
    facts = found.as_json(1, Path("out"))
    assert facts["onto"] == str(merged)
    assert facts["models"] == [str(family[3])]
    told = explain(add_code(family), "model.layers.0.attn.weight", merged)
    assert [(row["role"], row["model"]) for row in told["models"]] == [
        ("base", "base"),
        ("onto", "merged"),
        ("model", "code"),
    ]


def test_it_is_verified_from_its_inputs(family, merged, tmp_path: Path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(add_code(family)))
    ledmerge.merge(path, tmp_path / "out", onto=merged)
    names = {*SHAPES, "model.ids", "model.mask"}
    assert set(ledmerge.verify(tmp_path / "out", deep=True)["deep"]) == names
    assert set(ledmerge.verify(tmp_path / "out", deep=True, recipe=path)["deep"]) == names


def test_what_was_gone_on_with_is_compared_by_where_it_leads(
    family, merged, tmp_path: Path, monkeypatch
):
    ledmerge.merge(add_code(family), tmp_path / "out", onto=merged)
    path, moved = tmp_path / "recipe.yaml", tmp_path / "moved"
    shutil.copytree(merged, moved)
    for written in ("moved", str(moved / ".." / "moved"), str(merged)):
        path.write_text(yaml.safe_dump(add_code(family, onto=written)))
        assert ledmerge.verify(tmp_path / "out", deep=True, recipe=path)["deep"]
    monkeypatch.chdir(merged.parent)  # of a recipe in a mapping, paths start there
    ledmerge.merge(add_code(family, onto=merged.name), tmp_path / "beside")
    monkeypatch.chdir(tmp_path)
    path.write_text(yaml.safe_dump(add_code(family)))
    assert ledmerge.verify(tmp_path / "beside", deep=True, recipe=path)["deep"]


def test_another_merge_than_that_gone_on_with_is_told(family, merged, tmp_path: Path):
    earlier = shutil.copytree(merged, tmp_path / "earlier")
    ledmerge.merge(add_code(family), tmp_path / "out", onto=earlier)
    ledmerge.merge(recipe("opcm", *family[:2], dtype="float32"), tmp_path / "other")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(add_code(family, onto="other")))
    said = r"onto: .*other is not the merge that .*out went on with \(digest [0-9a-f]{32}, not "
    with pytest.raises(CheckpointError, match=said):
        ledmerge.verify(tmp_path / "out", deep=True, recipe=path)
    shutil.rmtree(earlier)
    (tmp_path / "other").rename(earlier)
    with pytest.raises(CheckpointError, match=r"onto: .*earlier is not .*give the recipe with"):
        ledmerge.verify(tmp_path / "out", deep=True)
    path.write_text(yaml.safe_dump(recipe("opcm", *family, dtype="float32")))
    ledmerge.merge(path, tmp_path / "once")
    path.write_text(yaml.safe_dump(add_code(family, onto=str(merged))))
    with pytest.raises(CheckpointError, match=r"once: went on with nothing; leave 'onto' out"):
        ledmerge.verify(tmp_path / "once", deep=True, recipe=path)


def test_a_result_of_several_documents_is_verified_from_its_file(merged, family, tmp_path: Path):
    base, safety, _, code = family
    half = recipe("linear", None, safety, code, name="half", dtype="float32")
    result = recipe("opcm", base, Path("half"), dtype="float32", onto=str(merged))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump_all([half, result]))
    ledmerge.merge(path, tmp_path / "out")
    assert ledmerge.verify(tmp_path / "out", deep=True)["deep"]
    assert ledmerge.verify(tmp_path / "out", deep=True, recipe=path)["deep"]


def test_it_is_resumed(family, merged, tmp_path: Path):
    given, out = add_code(family), tmp_path / "out"
    ledmerge.merge(given, tmp_path / "whole", onto=merged)
    with pytest.raises(KeyboardInterrupt):
        ledmerge.merge(given, out, onto=merged, threads=1, progress=stop_after(3))
    assert not out.exists()
    ledmerge.merge(given, out, onto=merged, resume=True)
    assert files_of(out)["model.safetensors"] == files_of(tmp_path / "whole")["model.safetensors"]


def test_the_command_line(family, merged, tmp_path: Path):
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(add_code(family)))
    onto = ["--onto", str(merged)]
    shown = CliRunner().invoke(app, ["plan", str(path), *onto])
    assert shown.exit_code == 0, shown.output
    assert "onto" in shown.stdout
    tensor = "model.layers.0.attn.weight"
    shown = CliRunner().invoke(app, ["merge", str(path), "--explain", tensor, *onto, "--json"])
    assert json.loads(shown.stdout)["models"][1]["role"] == "onto"
    shown = CliRunner().invoke(app, ["merge", str(path), str(out), *onto])
    assert shown.exit_code == 0, shown.output
    assert json.loads((out / "ledmerge.json").read_text())["onto"]["digest"]


def problems(given: dict[str, Any]) -> str:
    return "\n".join(plan(given).problems)


def test_another_method_is_refused(family, merged):
    given = {**add_code(family, onto=str(merged)), "merge_method": "ties"}
    with pytest.raises(RecipeError, match=r"onto: ties needs all experts at once; list .* by opcm"):
        plan(given)


def test_a_folder_of_another_kind_is_refused(family, tmp_path: Path):
    base, safety, *_ = family
    found = problems(add_code(family, onto=str(safety)))
    assert "ledmerge.json: not a merge's record" in found
    assert "give a folder that `ledmerge merge` wrote" in found
    ledmerge.merge(recipe("ties", base, safety, parameters={"density": 0.5}), tmp_path / "ties")
    found = problems(add_code(family, onto=str(tmp_path / "ties")))
    assert "onto: ties was made by ties, and opcm goes on with what it made itself" in found
    assert "merge all experts at once, by opcm" in found


def test_a_merge_that_says_too_little_is_refused(family, merged, tmp_path: Path):
    copied = shutil.copytree(merged, tmp_path / "copied")
    record = json.loads((copied / "ledmerge.json").read_text())
    del record["tensors"]["model.layers.0.attn.weight"]["figures"]["lengths"]
    (copied / "ledmerge.json").write_text(json.dumps(record))
    found = problems(add_code(family, onto=str(copied)))
    assert "copied says nothing of 'model.layers.0.attn.weight' to go on with" in found


def test_a_guarded_merge_is_refused_and_takes_no_guard(family, merged, tmp_path: Path):
    copied = shutil.copytree(merged, tmp_path / "copied")
    record = json.loads((copied / "ledmerge.json").read_text())
    record["recipe"]["guard"] = {}
    (copied / "ledmerge.json").write_text(json.dumps(record))
    assert "was made with 'guard'" in problems(add_code(family, onto=str(copied)))
    guard = {"scores": "code", "density": 0.1, "keep": "code"}
    with pytest.raises(RecipeError, match="guard: cannot be given with 'onto'"):
        plan(add_code(family, onto=str(merged), guard=guard))


def test_the_base_and_the_experts_are_not_what_is_gone_on_with(family, merged):
    with pytest.raises(RecipeError, match="onto: is the base; leave it out"):
        plan(add_code(family, onto=str(family[0])))
    with pytest.raises(RecipeError, match="is one of 'models' too; list the new experts alone"):
        plan(recipe("opcm", family[0], merged, family[3], onto=str(merged)))


def test_another_base_and_changed_weights_are_found(family, merged, tmp_path: Path):
    other = write_model(tmp_path / "base", expert_tensors(9))
    given = recipe("opcm", other, family[3], onto=str(merged))
    with pytest.raises(CheckpointError, match="the base is not that of merged; go on from the"):
        ledmerge.merge(given, tmp_path / "out")
    copied = shutil.copytree(merged, tmp_path / "copied")
    write_model(copied, {**read_all(merged), "model.layers.0.norm.weight": torch.zeros(99)})
    with pytest.raises(
        CheckpointError, match=r"'model.layers.0.norm.weight' in copied is not as its record says"
    ):
        ledmerge.merge(add_code(family), tmp_path / "out", onto=copied, overwrite=True)


def test_another_alpha_is_noted(family, merged):
    found = plan(add_code(family, onto=str(merged), parameters={"alpha": 0.25}))
    assert "onto: 'alpha' was 0.5 in merged, and is 0.25 here" in found.notes
    found = plan(add_code(family, onto=str(merged), parameters={"alpha": [0.1, 0.9]}))
    assert "onto: 'alpha' was 0.5 in merged, and is [0.1, 0.9] here" in found.notes


def test_a_merge_that_was_rounded_is_noted(family, merged, tmp_path: Path):
    ledmerge.merge(recipe("opcm", *family[:2]), tmp_path / "rounded")
    found = plan(add_code(family, onto=str(tmp_path / "rounded"))).notes
    assert [note for note in found if "rounded is stored in BF16 and F16, and what was" in note]
    assert not [note for note in plan(add_code(family, onto=str(merged))).notes if "onto" in note]


def test_a_model_of_the_same_file_is_refused(tmp_path: Path):
    write_family(tmp_path)
    half = recipe("opcm", Path("base"), Path("safety"), name="half")
    result = recipe("opcm", Path("base"), Path("code"), onto="half")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump_all([half, result]))
    assert "onto: half is made by this file; merge its experts in one" in plan(path).problems[0]
    with pytest.raises(RecipeError, match="holds several recipes; write 'onto: x' into the one"):
        plan(path, onto="x")


def test_slices_are_refused(family, merged):
    sources = [{"model": str(each), "layer_range": [0, 2]} for each in (family[0], family[3])]
    given = {"merge_method": "opcm", "base_model": str(family[0]), "slices": [{"sources": sources}]}
    with pytest.raises(RecipeError, match="slices: 'onto' goes on with whole models"):
        plan({**given, "onto": str(merged)})


def test_experts_that_changed_nothing(tmp_path: Path):
    """In either place, and with weights that the merge has rounded."""
    base = write_model(tmp_path / "base", base_tensors())
    same_as_base = write_model(tmp_path / "same", base_tensors())
    code = write_model(tmp_path / "code", expert_tensors(3))
    ledmerge.merge(recipe("opcm", base, same_as_base), tmp_path / "nothing")
    ledmerge.merge(recipe("opcm", base, code), tmp_path / "later", onto=tmp_path / "nothing")
    ledmerge.merge(recipe("opcm", base, same_as_base, code), tmp_path / "once")
    later, once = read_all(tmp_path / "later"), read_all(tmp_path / "once")
    assert all(same(later[name], tensor) for name, tensor in once.items())
