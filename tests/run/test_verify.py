"""Finished merges checked: against their record, and against their inputs."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from families import (
    SHAPES,
    WHOLE_NUMBERS,
    expert_tensors,
    random_scores,
    recipe,
    write_family,
    write_model,
    write_scores,
)

import ledmerge
from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.errors import CheckpointError, RecipeError
from ledmerge.run import verify as module

ALL = {*SHAPES, *WHOLE_NUMBERS}


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """`out` beside its inputs and `recipe.yaml`, all under one folder."""
    home = tmp_path / "home"
    write_family(home)
    given = recipe("dare_ties", Path("base"), Path("safety"), Path("math"))
    given["parameters"] = {"density": 0.5}
    (home / "recipe.yaml").write_text(yaml.safe_dump(given))
    ledmerge.merge(home / "recipe.yaml", home / "out", shard_size=100_000)
    return home / "out"


def flip(folder: Path, name: str, place: int = 0) -> None:
    """Change one byte of a tensor."""
    entry = open_checkpoint(folder).entries[name]
    with entry.path.open("r+b") as file:
        file.seek(entry.offset + place)
        (byte,) = file.read(1)
        file.seek(entry.offset + place)
        file.write(bytes([byte ^ 1]))


def change_record(out: Path, change) -> None:
    record = json.loads((out / "ledmerge.json").read_text())
    change(record)
    (out / "ledmerge.json").write_text(json.dumps(record))


def test_an_untouched_merge_is_as_written(merged: Path):
    found = ledmerge.verify(merged)
    assert found["tensors"] == len(ALL)
    assert found["deep"] == []
    assert found["digest"] == json.loads((merged / "ledmerge.json").read_text())["digest"]


def test_a_flipped_byte_is_named_with_its_tensor(merged: Path):
    last = 2 * 457 * 300 - 1
    flip(merged, "model.embed_tokens.weight", last)
    with pytest.raises(CheckpointError, match=r"'model.embed_tokens.weight' differs; merge again"):
        ledmerge.verify(merged)
    flip(merged, "model.embed_tokens.weight", last)
    ledmerge.verify(merged)


def test_every_wrong_tensor_is_named(merged: Path):
    flip(merged, "model.layers.1.scale")
    flip(merged, "model.ids", 9)
    change_record(merged, lambda record: record["tensors"].pop("model.layers.0.norm.weight"))
    change_record(merged, lambda record: record["tensors"].update(ghost={"digest": "0"}))
    with pytest.raises(CheckpointError) as caught:
        ledmerge.verify(merged)
    for said in (
        "'model.layers.1.scale' differs",
        "'model.ids' differs",
        "'model.layers.0.norm.weight' is not in the record",
        "'ghost' is missing",
    ):
        assert said in str(caught.value)


def test_a_record_that_contradicts_itself_is_refused(merged: Path):
    change_record(merged, lambda record: record.update(digest="0" * 32))
    with pytest.raises(CheckpointError, match="the record's own digest does not match"):
        ledmerge.verify(merged)


def test_files_beside_the_weights_are_checked_all_at_once(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    for name in ("tokenizer.json", "chat_template.jinja", "code/model.py", "README.md"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("{}")
    out = tmp_path / "out"
    record = ledmerge.merge(recipe("ties", base, safety, parameters={"density": 0.5}), out)
    beside = {"config.json", "tokenizer.json", "chat_template.jinja", "code/model.py"}
    assert record["files"].keys() == beside
    assert ledmerge.verify(out)["files"] == 4
    (out / "README.md").write_text("my own words")
    (out / "notes.txt").write_text("mine")
    ledmerge.verify(out)
    (out / "tokenizer.json").write_text("{ }")
    (out / "code" / "model.py").unlink()
    flip(out, "model.ids")
    with pytest.raises(CheckpointError) as caught:
        ledmerge.verify(out)
    for said in ("'model.ids' differs", "tokenizer.json differs", "code/model.py is missing"):
        assert said in str(caught.value)
    assert "config.json" not in str(caught.value)


def test_a_record_does_not_hang_on_shards_whose_index_is_checked_with_the_tensors(merged: Path):
    whole = ledmerge.merge(merged.parent / "recipe.yaml", merged.parent / "whole")
    assert json.loads((merged / "ledmerge.json").read_text()) == whole
    (merged / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError):
        ledmerge.verify(merged)


def test_older_records_say_nothing_of_files(merged: Path):
    change_record(merged, lambda record: record.pop("files"))
    (merged / "config.json").write_text("{}")
    assert ledmerge.verify(merged)["files"] == 0


@pytest.mark.parametrize(
    "text", [None, "{", "[]", "{}", '{"tensors": {"w": {}}, "digest": "0"}', "[" * 100_000]
)
def test_a_folder_without_a_record_is_refused(merged: Path, text: str | None):
    (merged / "ledmerge.json").unlink()
    if text is not None:
        (merged / "ledmerge.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"ledmerge.json: not a merge's record"):
        ledmerge.verify(merged)


def test_deep_computes_sampled_tensors_again(merged: Path, monkeypatch):
    assert set(ledmerge.verify(merged, deep=True, threads=3)["deep"]) == ALL  # eight, all there are
    monkeypatch.setattr(module, "SAMPLED", 3)
    samples = [set(ledmerge.verify(merged, deep=True, seed=s)["deep"]) for s in (0, 0, 1, 2)]
    assert [len(sample) for sample in samples] == [3] * 4
    assert samples[0] == samples[1]
    assert set(map(frozenset, samples)) != {frozenset(samples[0])}


def test_deep_computes_where_and_in_the_memory_asked(merged: Path, monkeypatch):
    given = {}
    monkeypatch.setattr(module, "gather_scores", lambda plan, **how: given.update(how))
    ledmerge.verify(merged, deep=True, device="cpu", memory=10**9)
    assert (given["device"], given["memory"]) == ("cpu", 10**9)
    with pytest.raises(RecipeError, match=r"--memory 1,000 bytes is too small: 3 threads need"):
        ledmerge.verify(merged, deep=True, memory=1000, threads=3)
    with pytest.raises(RecipeError, match="device: found 'gpu', expected auto"):
        ledmerge.verify(merged, deep=True, device="gpu")


def test_deep_sees_an_input_that_changed(merged: Path):
    flip(merged.parent / "safety", "model.layers.0.norm.weight", 3)
    ledmerge.verify(merged)
    with pytest.raises(CheckpointError, match=r"'model\.layers\.0\.norm\.weight' computed again"):
        ledmerge.verify(merged, deep=True)


def test_deep_sees_weights_replaced_together_with_their_digests(merged: Path):
    other = ledmerge.merge(
        merged.parent / "recipe.yaml", merged.parent / "honest", shard_size=100_000
    )
    write_model(merged.parent / "safety", expert_tensors(7))
    forged = ledmerge.merge(merged.parent / "recipe.yaml", merged, overwrite=True)
    assert forged["digest"] != other["digest"]
    write_model(merged.parent / "safety", expert_tensors(1))
    ledmerge.verify(merged)
    with pytest.raises(CheckpointError, match="computed again from the inputs differs"):
        ledmerge.verify(merged, deep=True)


def test_inputs_that_moved_are_found_by_the_recipe(merged: Path, tmp_path: Path):
    home = merged.parent.rename(tmp_path / "elsewhere")
    ledmerge.verify(home / "out")
    with pytest.raises(
        CheckpointError, match=r"cannot open the inputs again .*give the recipe with"
    ):
        ledmerge.verify(home / "out", deep=True)
    found = ledmerge.verify(home / "out", deep=True, recipe=home / "recipe.yaml")
    assert set(found["deep"]) == ALL


def test_scores_that_are_gone_are_told_with_what_to_do(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    given = recipe("obim", base, safety, own=[{"density": 0.5}])
    given["models"][0]["scores"] = str(write_scores(tmp_path / "s", safety, random_scores(1)))
    ledmerge.merge(given, tmp_path / "out")
    (tmp_path / "s").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"s: no such folder; .*give the recipe with"):
        ledmerge.verify(tmp_path / "out", deep=True)


def test_another_recipe_does_not_pass(merged: Path, tmp_path: Path):
    home = merged.parent
    given = yaml.safe_load((home / "recipe.yaml").read_text())
    (home / "other.yaml").write_text(yaml.safe_dump({**given, "seed": 1}))
    with pytest.raises(CheckpointError, match="computed again from the inputs differs"):
        ledmerge.verify(merged, deep=True, recipe=home / "other.yaml")
    shutil.rmtree(home / "base")
    write_model(home / "base", {**expert_tensors(1), "extra": expert_tensors(1)["model.ids"] * 1.0})
    for name in ("safety", "math"):
        shutil.rmtree(home / name)
        shutil.copytree(home / "base", home / name)
    with pytest.raises(CheckpointError):
        ledmerge.verify(merged, deep=True)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_deep_ranks_scores_over_all_that_were_ranked_together(tmp_path: Path, monkeypatch, scope):
    base, safety, *_ = write_family(tmp_path)
    given = recipe("led", base, safety, own=[{"density": 0.3}], parameters={"scope": scope})
    for key, model, seed in (("scores", safety, 1), ("base_scores", base, 2)):
        folder = write_scores(tmp_path / key, model, random_scores(seed))
        given["models"][0][key] = str(folder)
    ledmerge.merge(given, tmp_path / "out")
    monkeypatch.setattr(module, "SAMPLED", 2)
    assert set(ledmerge.verify(tmp_path / "out", deep=True)["deep"]) == ALL


def test_a_folder_without_a_record_is_told(merged: Path, tmp_path: Path):
    (merged / "ledmerge.json").unlink()
    with pytest.raises(CheckpointError, match=r"\(no such file\); expected a folder that"):
        ledmerge.verify(merged)
    with pytest.raises(CheckpointError, match=r"\(no such folder\); expected a folder that"):
        ledmerge.verify(tmp_path / "nothing")


def test_a_folder_that_is_no_model_is_told(merged: Path):
    (merged / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"out: is an adapter, whose ledmerge.json has no"):
        ledmerge.verify(merged)
