"""What a search tries and keeps; the merges themselves are tested elsewhere."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from searches import with_weights

import ledmerge
from ledmerge.errors import LedmergeError, NonFiniteError, OutputError, RecipeError
from ledmerge.run import trial as trying
from ledmerge.run.progress import Quiet

pytest.importorskip("optuna")


def test_every_trial_is_what_merging_and_evaluating_by_hand_give(
    write_search, tmp_path: Path, fresh_cache
):
    record = ledmerge.search(write_search(), tmp_path / "out")
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
    write_search, tmp_path: Path, model_folder, fresh_cache, monkeypatch
):
    for seed in (1, 2):
        shutil.copytree(model_folder("llama", seed), tmp_path / f"expert{seed}")
    path = write_search({"models": [{"model": "expert1"}, {"model": "expert2"}]})
    record = ledmerge.search(path, tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    merged = ledmerge.merge(tmp_path / "out/best.yaml", tmp_path / "merged")
    assert merged["digest"] == record["trials"][record["best"]]["digest"]


def test_what_is_better_when_lower_is_subtracted(write_search, tmp_path: Path, fresh_cache):
    path, texts = write_search(), tmp_path / "texts.jsonl"
    texts.write_text(json.dumps({"text": "tell me of the sea"}) + "\n")
    suite = yaml.safe_load((tmp_path / "suite.yaml").read_text())
    suite["benchmarks"]["perplexity"] = {"data": str(texts)}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    fields = yaml.safe_load(path.read_text())
    fields["objective"] = {"rows.log_likelihood": 2.0, "perplexity.bits_per_byte": 0.5}
    path.write_text(yaml.safe_dump(fields))
    for trial in ledmerge.search(path, tmp_path / "out")["trials"]:
        figures = {name: each["value"] for name, each in trial["figures"].items()}
        by_hand = 2.0 * figures["rows.log_likelihood"] - 0.5 * figures["perplexity.bits_per_byte"]
        assert trial["objective"] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objective": {"rows.accuracy": 1.0}}, "'rows.accuracy' is no figure of .*suite.yaml"),
        ({"objective": {"row.log_likelihood": 1.0}}, "did you mean 'rows.log_likelihood'"),
        ({"vary": {"parameters.wieght": [1.0, 2.0]}}, "with 1.0: .*'wieght'.*'weight'"),
        ({"vary": {"parameters.weight": [1.0, "x"]}}, "vary.parameters.weight: with x: "),
        ({"vary": {"merge_method": ["linear", "tise"]}}, "with tise: .*did you mean 'ties'"),
        ({"vary": {"parameters.density": [0.1, 0.2]}}, "density: makes no difference"),
        (
            {"vary": {"parameters.density": [0.1, 3.0], "merge_method": ["ties", "dare_ties"]}},
            "density: with 3.0: .*outside",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_merged(
    write_search, tmp_path: Path, changed, message, monkeypatch
):
    monkeypatch.setattr(trying, "merge", None)
    with pytest.raises(RecipeError, match=message):
        ledmerge.search(write_search(**changed), tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))


def test_values_that_do_not_go_together_are_told_and_passed_over(
    write_search, tmp_path: Path, fresh_cache
):
    """linear divides by the sum of the weights; each of these goes with the recipe's others."""
    models = yaml.safe_load(write_search().with_name("recipe.yaml").read_text())["models"]
    linear = {
        "merge_method": "linear",
        "models": [{**model, "parameters": {"weight": 2.0}} for model in models],
    }
    vary = {
        "models[0].parameters.weight": [2.0, -1.0],
        "models[1].parameters.weight": [2.0, 1.0],
    }
    record = ledmerge.search(write_search(linear, vary=vary, trials=8), tmp_path / "out")
    refused = [trial for trial in record["trials"] if trial["objective"] is None]
    assert refused
    for trial in refused:
        assert list(trial["values"].values()) == [-1.0, 1.0]
        assert "sum to 0" in trial["refused"]
    assert "refused: " in (tmp_path / "out/search.md").read_text()
    assert record["trials"][record["best"]]["objective"] is not None


def hill(top):
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
def test_samplers_climb(write_search, tmp_path: Path, monkeypatch, sampler, near):
    top = (0.3, 1.4)
    merge, evaluate = hill(top)
    monkeypatch.setattr(trying, "merge", merge)
    monkeypatch.setattr(trying, "evaluate", evaluate)
    record = ledmerge.search(write_search(trials=60, sampler=sampler), tmp_path / "out")
    best = record["trials"][record["best"]]
    assert best["objective"] > -(near**2)
    assert list(best["values"].values()) == pytest.approx(top, abs=near)


def test_the_recipe_as_it_stands_may_be_the_best(write_search, tmp_path: Path, monkeypatch):
    merge, evaluate = hill((1.0, 1.0))
    monkeypatch.setattr(trying, "merge", merge)
    monkeypatch.setattr(trying, "evaluate", evaluate)
    record = ledmerge.search(write_search(), tmp_path / "out")
    assert record["best"] == 0
    assert "no trial did better" in (tmp_path / "out/best.yaml").read_text()


class Noted(Quiet):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def test_the_sampler_learns_from_the_recipe_as_it_stands(write_search, tmp_path: Path, monkeypatch):
    merge, evaluate = hill((0.3, 1.4))
    monkeypatch.setattr(trying, "merge", merge)
    monkeypatch.setattr(trying, "evaluate", evaluate)

    def search(first):
        path = write_search(with_weights(write_search, first, 1.4), trials=12, sampler="tpe")
        progress = Noted()
        record = ledmerge.search(path, tmp_path / str(first), progress=progress)
        return record, [list(each["values"].values()) for each in record["trials"]], progress.notes

    record, tried, notes = search(0.3)
    assert tried[0] == [0.3, 1.4]
    assert record["best"] == 0
    assert "no trial did better" in (tmp_path / "0.3/best.yaml").read_text()
    assert not notes
    _, untold, notes = search(2.3)
    assert untold[0] == [1.4]
    assert "'models[0].parameters.weight'" in notes[0]
    # Nine at random make ten with the recipe: the next is the first that knows of it.
    assert tried[1:10] == untold[1:10]
    assert tried[10] != untold[10]


def test_a_gradient_over_the_layers(write_search, tmp_path: Path, fresh_cache):
    vary = {"parameters.weight": {"low": 0.0, "high": 1.0, "anchors": 2, "step": 0.5}}
    record = ledmerge.search(write_search(vary=vary), tmp_path / "out")
    for trial in record["trials"][1:]:
        (values,) = trial["values"].values()
        assert len(values) == 2
        assert set(values) <= {0.0, 0.5, 1.0}
    digests = {trial["digest"]: trial["values"] for trial in record["trials"][1:]}
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    for number, (digest, values) in enumerate(digests.items()):
        recipe["parameters"] = {"weight": values["parameters.weight"]}
        assert ledmerge.merge(recipe, tmp_path / f"hand{number}")["digest"] == digest


@pytest.mark.parametrize(("sampler", "missing"), [("tpe", "optuna"), ("cmaes", "cmaes")])
def test_a_missing_library_is_named(write_search, tmp_path: Path, monkeypatch, sampler, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RecipeError, match=f"{missing} is missing.*pip install 'optuna>=4'"):
        ledmerge.search(write_search(sampler=sampler), tmp_path / "out")


def test_an_option_of_one_of_the_methods_is_varied(write_search, tmp_path: Path, fresh_cache):
    vary = {"parameters.density": [0.25, 0.75], "merge_method": ["ties", "task_arithmetic"]}
    record = ledmerge.search(write_search(vary=vary, trials=12), tmp_path / "out")
    digests = {
        tuple(each["values"][place] for place in vary): each["digest"]
        for each in record["trials"][1:]
    }
    assert digests[0.25, "ties"] != digests[0.75, "ties"]
    assert digests[0.25, "task_arithmetic"] == digests[0.75, "task_arithmetic"]


@pytest.mark.parametrize(
    ("options", "message"), [({"device": "tpu"}, "tpu"), ({"memory": 1}, "--memory")]
)
def test_where_it_cannot_run_nothing_is_left(write_search, tmp_path: Path, options, message):
    with pytest.raises(LedmergeError, match=message):
        ledmerge.search(write_search(), tmp_path / "out", **options)
    assert not list(tmp_path.glob(".out*"))


def test_a_place_inside_a_model_is_refused(write_search, model_folder, tmp_path: Path):
    model = shutil.copytree(model_folder("llama"), tmp_path / "model")
    with pytest.raises(OutputError, match="inside"):
        ledmerge.search(write_search(), model / "out")
    assert not list(model.glob(".out*"))


def test_a_merge_that_overflows_is_passed_over(write_search, tmp_path: Path, fresh_cache):
    asked = {"vary": {"models[0].parameters.weight": [1e30, 1.0]}, "seed": 1}
    record = ledmerge.search(
        write_search({"dtype": "float16"}, trials=3, **asked), tmp_path / "out"
    )
    refused = [each for each in record["trials"] if each["objective"] is None]
    assert record["trials"][-1] in refused, "choose another seed: the last leaves most behind"
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"best.yaml", "search.json", "search.md", "trials"}
    kept = {path.name for path in (tmp_path / "out/trials").iterdir()}
    assert kept == {f"{each['number']:04}" for each in record["trials"] if each not in refused}
    assert all("overflow" in each["refused"] for each in refused)
    assert all(each["values"]["models[0].parameters.weight"] > 1 for each in refused)


def test_a_recipe_that_overflows_as_it_stands_is_refused(write_search, tmp_path: Path, fresh_cache):
    recipe = {"dtype": "float16", "parameters": {"weight": 1e30}}
    with pytest.raises(NonFiniteError, match="overflow"):
        ledmerge.search(write_search(recipe), tmp_path / "out")


def test_values_of_several_lines_are_kept_in_best_yaml(write_search, tmp_path: Path, fresh_cache):
    templates = ["{{ messages }}\nb", "{{ messages }}\nc"]
    record = ledmerge.search(write_search(vary={"chat_template": templates}), tmp_path / "out")
    merged = ledmerge.merge(tmp_path / "out/best.yaml", tmp_path / "merged")
    assert merged["digest"] == record["trials"][record["best"]]["digest"]
