"""What a search tries, keeps and takes up again; the merges themselves are tested elsewhere."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

import ledmerge
from ledmerge.errors import OutputError, RecipeError
from ledmerge.run import search as searching
from ledmerge.run.progress import Quiet

pytest.importorskip("optuna")

WEIGHTS = {f"models[{i}].parameters.weight": {"low": -1.0, "high": 2.0} for i in (0, 1)}


@pytest.fixture
def write(tmp_path, model_folder, rows_file):
    """Writes a recipe, a suite and a search with some keys changed; gives the search's path."""

    def write(recipe=None, **changed):
        base = model_folder("llama")
        said = {
            "merge_method": "task_arithmetic",
            "base_model": str(base),
            "models": [{"model": str(model_folder("llama", seed))} for seed in (1, 2)],
            "dtype": "float32",
            **(recipe or {}),
        }
        suite = {
            "benchmarks": {"rows": {"task": "log_likelihood", "data": str(rows_file)}},
            "template": "none",
        }
        fields = {
            "recipe": "recipe.yaml",
            "suite": "suite.yaml",
            "objective": {"rows.log_likelihood": 1.0},
            "vary": WEIGHTS,
            "trials": 3,
            "sampler": "random",
        }
        for name, what in (
            ("recipe", said),
            ("suite", suite),
            ("search", {**fields, **changed}),
        ):
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(what))
        return tmp_path / "search.yaml"

    return write


def test_every_trial_is_what_merging_and_evaluating_by_hand_give(
    write, tmp_path: Path, fresh_cache
):
    record = ledmerge.search(write(), tmp_path / "out")
    assert json.loads((tmp_path / "out/search.json").read_text()) == record
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("search.json", "search.md", "best.yaml", "trials"),
    }
    assert [trial["number"] for trial in record["trials"]] == [0, 1, 2, 3]
    assert record["trials"][0]["values"] == {}
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    for trial in record["trials"]:
        for place, value in trial["values"].items():
            recipe["models"][int(place[7])]["parameters"] = {"weight": value}
        merged = ledmerge.merge(recipe, tmp_path / "hand", overwrite=True)
        results = ledmerge.evaluate(
            [tmp_path / "hand"], tmp_path / "suite.yaml", tmp_path / "judged", overwrite=True
        )
        figure = results["models"][0]["benchmarks"]["rows"]["figures"]["log_likelihood"]
        assert trial["digest"] == merged["digest"]
        assert trial["figures"] == {"rows.log_likelihood": figure}
        assert trial["objective"] == figure["value"]
    objectives = [trial["objective"] for trial in record["trials"]]
    assert record["best"] == objectives.index(max(objectives))


def test_the_best_recipe_merges_to_the_same_bytes_from_anywhere(
    write, tmp_path: Path, model_folder, fresh_cache, monkeypatch
):
    for seed in (1, 2):
        shutil.copytree(model_folder("llama", seed), tmp_path / f"expert{seed}")
    path = write({"models": [{"model": "expert1"}, {"model": "expert2"}]})
    record = ledmerge.search(path, tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    merged = ledmerge.merge(tmp_path / "out/best.yaml", tmp_path / "merged")
    assert merged["digest"] == record["trials"][record["best"]]["digest"]


class Stopped(Quiet):
    """Interrupts after a number of trials."""

    def __init__(self, after):
        self.after, self.unit = after, ""

    def start(self, what, total, unit, done=0):
        self.unit = unit

    def advance(self, amount=1):
        self.after -= amount * (self.unit == "trials")
        if self.after == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_an_interrupted_search_goes_on_to_the_same_end(
    write, tmp_path: Path, fresh_cache, sampler, monkeypatch
):
    path = write(trials=14, sampler=sampler)
    whole = ledmerge.search(path, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        ledmerge.search(path, tmp_path / "out", progress=Stopped(12))
    with pytest.raises(OutputError, match="go on with --resume"):
        ledmerge.search(path, tmp_path / "out")
    tried = []
    keep = searching._try

    def counted(found, signs, number, *rest):
        tried.append(number)
        return keep(found, signs, number, *rest)

    monkeypatch.setattr(searching, "_try", counted)
    assert ledmerge.search(path, tmp_path / "out", resume=True) == whole
    assert tried == [13, 14]


def test_trials_of_another_optuna_are_not_gone_on_with(write, tmp_path: Path, fresh_cache):
    path = write()
    with pytest.raises(KeyboardInterrupt):
        ledmerge.search(path, tmp_path / "out", progress=Stopped(3))
    journal = tmp_path / ".out.partial/journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    lines[-1]["values"]["models[0].parameters.weight"] = 0.5
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(OutputError, match=r"this Optuna .* tries"):
        ledmerge.search(path, tmp_path / "out", resume=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objective": {"rows.accuracy": 1.0}}, "'rows.accuracy' is no figure of .*suite.yaml"),
        ({"objective": {"row.log_likelihood": 1.0}}, "did you mean 'rows.log_likelihood'"),
        ({"vary": {"parameters.wieght": [1.0, 2.0]}}, "with 1.0: .*'wieght'.*'weight'"),
        ({"vary": {"parameters.weight": [1.0, "x"]}}, "vary.parameters.weight: with x: "),
        ({"vary": {"merge_method": ["linear", "tise"]}}, "with tise: .*did you mean 'ties'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_merged(
    write, tmp_path: Path, changed, message, monkeypatch
):
    monkeypatch.setattr(searching, "merge", None)
    with pytest.raises(RecipeError, match=message):
        ledmerge.search(write(**changed), tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))


def test_values_that_do_not_go_together_are_told_and_passed_over(
    write, tmp_path: Path, fresh_cache
):
    """linear divides by the sum of the weights; each of these goes with the recipe's others."""
    models = yaml.safe_load(write().with_name("recipe.yaml").read_text())["models"]
    linear = {
        "merge_method": "linear",
        "models": [{**model, "parameters": {"weight": 2.0}} for model in models],
    }
    vary = {
        "models[0].parameters.weight": [2.0, -1.0],
        "models[1].parameters.weight": [2.0, 1.0],
    }
    record = ledmerge.search(write(linear, vary=vary, trials=8), tmp_path / "out")
    refused = [trial for trial in record["trials"] if trial["objective"] is None]
    assert refused
    for trial in refused:
        assert list(trial["values"].values()) == [-1.0, 1.0]
        assert "sum to 0" in trial["refused"]
    assert "refused: " in (tmp_path / "out/search.md").read_text()
    assert record["trials"][record["best"]]["objective"] is not None


def hill(place, top):
    """Stands for merging and judging: the recipe's weights say how good it is."""

    def merge(recipe, out, **_):
        out.mkdir(parents=True, exist_ok=True)
        weights = recipe.options["weight"]
        height = -sum((weight - best) ** 2 for weight, best in zip(weights, top, strict=True))
        (out / "height").write_text(repr(height))
        return {"digest": ""}

    def evaluate(models, *_, **__):
        value = float((models[0] / "height").read_text())
        figure = {"value": value, "low": None, "high": None, "better": "higher"}
        return {"models": [{"benchmarks": {"rows": {"figures": {"log_likelihood": figure}}}}]}

    return merge, evaluate


@pytest.mark.parametrize(("sampler", "near"), [("tpe", 0.3), ("cmaes", 0.05), ("random", 0.5)])
def test_samplers_climb(write, tmp_path: Path, monkeypatch, sampler, near):
    top = (0.3, 1.4)
    merge, evaluate = hill(tmp_path, top)
    monkeypatch.setattr(searching, "merge", merge)
    monkeypatch.setattr(searching, "evaluate", evaluate)
    record = ledmerge.search(write(trials=60, sampler=sampler), tmp_path / "out")
    best = record["trials"][record["best"]]
    assert best["objective"] > -(near**2)
    assert list(best["values"].values()) == pytest.approx(top, abs=near)


def test_the_recipe_as_it_stands_may_be_the_best(write, tmp_path: Path, monkeypatch):
    merge, evaluate = hill(tmp_path, (1.0, 1.0))
    monkeypatch.setattr(searching, "merge", merge)
    monkeypatch.setattr(searching, "evaluate", evaluate)
    record = ledmerge.search(write(), tmp_path / "out")
    assert record["best"] == 0
    assert "no trial did better" in (tmp_path / "out/best.yaml").read_text()


def test_a_gradient_over_the_layers(write, tmp_path: Path, fresh_cache):
    vary = {"parameters.weight": {"low": 0.0, "high": 1.0, "anchors": 2, "step": 0.5}}
    record = ledmerge.search(write(vary=vary), tmp_path / "out")
    for trial in record["trials"][1:]:
        (values,) = trial["values"].values()
        assert len(values) == 2
        assert set(values) <= {0.0, 0.5, 1.0}
    assert "weight:\n  - " in (tmp_path / "out/best.yaml").read_text() or record["best"] == 0


@pytest.mark.parametrize(("sampler", "missing"), [("tpe", "optuna"), ("cmaes", "cmaes")])
def test_a_missing_library_is_named(write, tmp_path: Path, monkeypatch, sampler, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RecipeError, match=f"{missing} is missing.*pip install 'optuna>=4'"):
        ledmerge.search(write(sampler=sampler), tmp_path / "out")


def test_a_finished_search_is_not_begun_again(write, tmp_path: Path, fresh_cache, monkeypatch):
    path = write()
    record = ledmerge.search(path, tmp_path / "out")
    monkeypatch.setattr(searching, "_try", None)
    assert ledmerge.search(path, tmp_path / "out", resume=True) == record
    with pytest.raises(OutputError, match="exists; choose another name"):
        ledmerge.search(write(trials=4), tmp_path / "out", resume=True)
