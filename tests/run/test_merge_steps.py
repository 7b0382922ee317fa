"""Files of several recipes that name each other: merged in order, one result left."""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import yaml
from families import files_of, listen, read_all, same, write_family

import ledmerge
from ledmerge.errors import CheckpointError, OutputError, RecipeError
from ledmerge.recipe.recipe import load_recipe
from ledmerge.run import planned
from ledmerge.run.plan import check_space, plan

Usage = namedtuple("Usage", "total used free")

RESULT = {
    "merge_method": "slerp",
    "base_model": "half",
    "models": [{"model": "half"}, {"model": "sum"}],
    "parameters": {"t": 0.25},
}
HALF = {
    "name": "half",
    "merge_method": "linear",
    "models": [{"model": "base"}, {"model": "safety"}],
}
SUM = {
    "name": "sum",
    "merge_method": "task_arithmetic",
    "base_model": "base",
    "models": [{"model": "half"}, {"model": "math"}],
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_family(tmp_path)
    return tmp_path


def write(home: Path, *documents: dict) -> Path:
    path = home / "recipe.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return path


def test_documents_are_merged_in_the_order_of_their_needs(home: Path):
    record = ledmerge.merge(write(home, RESULT, SUM, HALF), home / "out")
    for given in (HALF, SUM, RESULT):
        (home / "alone.yaml").write_text(yaml.safe_dump(given))
        ledmerge.merge(home / "alone.yaml", home / given.get("name", "result"))
    made, expected = read_all(home / "out"), read_all(home / "result")
    assert all(same(made[name], tensor) for name, tensor in expected.items())
    assert [step["name"] for step in record["steps"]] == ["half", "sum"]
    assert not list(home.glob(".*"))
    card = (home / "out" / "README.md").read_text()
    assert ", from\n\n- base\n- safety\n- math\n\n" in card
    shown = list(yaml.safe_load_all(card.split("```yaml\n")[1].split("```")[0]))
    assert shown == [*record["steps"], record["recipe"]]


def test_without_a_nameless_one_the_last_is_the_result(home: Path):
    path = write(home, HALF, {**RESULT, "name": "result"}, SUM)
    with pytest.raises(RecipeError, match="the result needs nothing of result; a file has one"):
        load_recipe(path)
    recipe = load_recipe(write(home, SUM, HALF, {**RESULT, "name": "result"}))
    assert [step.name for step in recipe.steps] == ["half", "sum"]
    assert recipe.name == "result"


WRONG = {
    "two without a name": (
        [{**HALF, "name": None}, RESULT],
        "documents 1 and 2 have no 'name'; only the result may be without one",
    ),
    "one name twice": ([HALF, HALF, RESULT], "two documents have the name 'half'"),
    "a circle": (
        [{**HALF, "models": [{"model": "sum"}]}, SUM, RESULT],
        "each of these documents needs the next: half -> sum -> half",
    ),
    "a mistake in one": ([{**HALF, "sed": 1}, RESULT], "document 1: 'sed' is not known"),
    "a value in one": (
        [{**HALF, "parameters": {"weight": "x"}}, SUM, RESULT],
        "'half': parameters.weight: expected a number",
    ),
    "a value in the one without a name": (
        [HALF, SUM, {**RESULT, "parameters": {"weight": "x"}}],
        "recipe.yaml: the result: ",
    ),
    "a name that is a path": ([{**HALF, "name": "../x"}, RESULT], "document 1: name: "),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_files_that_have_no_order_are_refused(home: Path, wrong: str):
    documents, said = WRONG[wrong]
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(home, *documents))
    assert said in str(caught.value)


def test_everything_is_planned_before_the_first_step(home: Path):
    facts = plan(write(home, HALF, SUM, RESULT)).as_json(threads=1, out=home / "out")
    assert json.loads(json.dumps(facts))["problems"] == []
    assert [step["name"] for step in facts["steps"]] == ["half", "sum"]
    bad = {**SUM, "parameters": {"weight": [{"filter": "attn", "value": 1}]}}
    linear = {"merge_method": "linear", "models": [{"model": "sum"}], "parameters": {"weight": 0}}
    found = plan(write(home, HALF, {**SUM, "chat_template": "none"}, linear)).problems
    assert found[0].startswith("'sum': chat_template: 'none' is no template's text")
    assert found[1].startswith("linear: the weights sum to 0")
    with pytest.raises(RecipeError):
        ledmerge.merge(write(home, HALF, bad, linear), home / "out")
    assert not list(home.glob(".*"))


def test_a_run_is_taken_up_at_the_step_where_it_was(home: Path):
    path, out = write(home, HALF, SUM, RESULT), home / "out"
    ledmerge.merge(path, home / "whole")
    starts: list[str] = []

    def run(stop: int, **how: bool) -> list[str]:
        """Press Ctrl-C in the block after `stop`; returns what was merged."""
        count = iter(range(stop, -1, -1))

        def advance() -> None:
            if next(count, 0) == 0:
                raise KeyboardInterrupt

        progress, heard = listen(advance)
        try:
            ledmerge.merge(path, out, threads=1, progress=progress, **how)
        finally:
            starts[:] = [
                each[0].removeprefix("merge by ")
                for each in heard
                if isinstance(each, tuple) and each[0].startswith("merge")
            ]
        return starts

    with pytest.raises(KeyboardInterrupt):
        run(12)
    assert starts == ["linear", "task_arithmetic"]
    with pytest.raises(OutputError, match=r"an interrupted run is in .out.steps; go on with"):
        ledmerge.merge(path, out)
    assert run(10_000, resume=True) == ["task_arithmetic", "slerp"]
    assert files_of(out)["model.safetensors"] == files_of(home / "whole")["model.safetensors"]
    assert not list(home.glob(".*"))


@pytest.mark.parametrize(
    ("documents", "stop"),
    [((HALF, SUM, RESULT), 0), ((HALF, SUM, RESULT), 20), (({**HALF, "name": None},), 0)],
    ids=["first step", "result", "no steps"],
)
def test_a_second_run_leaves_the_first_alone(home: Path, documents: tuple[dict, ...], stop: int):
    path, out = write(home, *documents), home / "out"
    ledmerge.merge(path, home / "whole")
    count, said = iter(range(stop, -1, -1)), []

    def advance() -> None:
        if next(count, None) == 0:
            for how in ({}, {"resume": True}, {"overwrite": True}):
                with pytest.raises(OutputError) as caught:
                    ledmerge.merge(path, out, threads=1, **how)
                said.append(str(caught.value))

    ledmerge.merge(path, out, threads=1, progress=listen(advance)[0])
    assert len(said) == 3
    assert all("another process is writing this folder now" in each for each in said)
    assert files_of(out)["model.safetensors"] == files_of(home / "whole")["model.safetensors"]
    assert not list(home.glob(".*"))


def test_a_place_below_a_file_is_told(home: Path):
    (home / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*Not a directory"):
        ledmerge.merge(write(home, HALF, SUM, RESULT), home / "file" / "out")


def test_a_finished_result_is_refused_before_a_step_is_made(home: Path):
    path = write(home, RESULT, SUM, HALF)
    ledmerge.merge(path, home / "out")
    before = sorted(home.iterdir())
    progress, heard = listen()
    with pytest.raises(OutputError, match=r"out: exists; choose another name, or --overwrite"):
        ledmerge.merge(path, home / "out", progress=progress)
    assert not heard
    assert sorted(home.iterdir()) == before


def test_a_finished_result_is_not_merged_again(home: Path):
    path, out = write(home, RESULT, SUM, HALF), home / "out"
    record = ledmerge.merge(path, out)
    for how in ({}, {"overwrite": True}, {"allow_nonfinite": True}):
        progress, heard = listen()
        assert ledmerge.merge(path, out, resume=True, progress=progress, **how) == record
        assert heard[-1] == f"{out} is there already: nothing to do"
        assert not any(isinstance(each, tuple) for each in heard)  # nothing but notes
    assert not list(home.glob(".*"))


CHANGES = {
    "an input of a step": lambda home: os.utime(home / "safety" / "model.safetensors"),
    "an input of the second step": lambda home: os.utime(home / "math" / "model.safetensors"),
    "the tokenizer of a step's base": lambda home: (home / "base" / "vocab.txt").write_text("a"),
    "an option of a step": lambda home: write(home, RESULT, {**SUM, "dtype": "float32"}, HALF),
    "an option of the result": lambda home: write(home, {**RESULT, "dtype": "float32"}, SUM, HALF),
    "a weight file of the result": lambda home: (home / "out" / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_result_of_other_steps_is_refused_before_one_is_made(home: Path, change: str):
    path, out = write(home, RESULT, SUM, HALF), home / "out"
    ledmerge.merge(path, out)
    CHANGES[change](home)
    progress, heard = listen()
    with pytest.raises(OutputError, match="is finished, and had other inputs"):
        ledmerge.merge(path, out, resume=True, progress=progress)
    assert not any(isinstance(each, tuple) for each in heard)  # nothing but notes
    assert not list(home.glob(".*"))
    ledmerge.merge(path, out, resume=True, overwrite=True)
    assert ledmerge.verify(out, deep=True)["deep"]


def test_a_step_whose_inputs_changed_is_made_again(home: Path):
    path, out = write(home, HALF, SUM, RESULT), home / "out"
    ledmerge.merge(path, home / "whole")
    (home / "other.yaml").write_text(yaml.safe_dump({**HALF, "models": [{"model": "math"}] * 2}))
    ledmerge.merge(home / "other.yaml", home / ".out.steps" / "half")
    (home / ".out.steps" / ".half.key").write_text("of other inputs")
    ledmerge.merge(path, out, resume=True)
    assert files_of(out)["model.safetensors"] == files_of(home / "whole")["model.safetensors"]


def test_a_result_of_several_documents_is_computed_again_from_the_first_inputs(
    home: Path, monkeypatch
):
    path, out = write(home, HALF, SUM, RESULT), home / "out"
    ledmerge.merge(path, out)
    (home / "spare").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(home / "spare"))
    for recipe in (None, path):
        assert len(ledmerge.verify(out, deep=True, recipe=recipe)["deep"]) == 8
    assert not any((home / "spare").iterdir())
    write_family(home / "others")
    shutil.copy(home / "others" / "code" / "model.safetensors", home / "math")
    with pytest.raises(CheckpointError, match="computed again from the inputs differs"):
        ledmerge.verify(out, deep=True)
    monkeypatch.setattr(planned.shutil, "disk_usage", lambda _: Usage(0, 0, 10))
    with pytest.raises(OutputError, match=r"made on the way need .*set TMPDIR to a folder"):
        ledmerge.verify(out, deep=True)
    shutil.rmtree(home / "math")
    with pytest.raises(CheckpointError, match=r"cannot open the inputs again .*--recipe"):
        ledmerge.verify(out, deep=True)


def test_steps_need_room_on_the_disk_too(home: Path, monkeypatch):
    found = plan(write(home, HALF, SUM, RESULT))
    sizes = [each.bytes_out for each in (found, *found.steps)]
    assert len(sizes) == 3
    for free, num_problems in ((sum(sizes), 0), (sum(sizes) - 1, 1)):
        usage = Usage(0, 0, free)
        monkeypatch.setattr(planned.shutil, "disk_usage", lambda place, usage=usage: usage)
        check_space(found, home / "out")
        assert len(found.problems) == num_problems
