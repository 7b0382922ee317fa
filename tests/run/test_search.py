"""What a search tries, keeps and takes up again; the merges themselves are tested elsewhere."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

import ledmerge
from ledmerge.errors import LedmergeError, NonFiniteError, OutputError, RecipeError
from ledmerge.run import trial as trying
from ledmerge.run.progress import Quiet
from ledmerge.run.trial import Trials

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


def test_what_is_better_when_lower_is_subtracted(write, tmp_path: Path, fresh_cache):
    path, texts = write(), tmp_path / "texts.jsonl"
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
    path = write(with_weights(write, 0.5, 0.25), trials=14, sampler=sampler)
    whole = ledmerge.search(path, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        ledmerge.search(path, tmp_path / "out", progress=Stopped(12))
    with pytest.raises(OutputError, match="go on with --resume"):
        ledmerge.search(path, tmp_path / "out")
    tried = []
    keep = Trials.run

    def counted(self, number, *rest):
        tried.append(number)
        return keep(self, number, *rest)

    monkeypatch.setattr(Trials, "run", counted)
    assert ledmerge.search(path, tmp_path / "out", resume=True) == whole
    assert tried == [13, 14]


def with_weights(write, *weights):
    """The recipe's models with weights of their own, as searches look for them."""
    models = yaml.safe_load(write().with_name("recipe.yaml").read_text())["models"]
    return {
        "models": [
            {**model, "parameters": {"weight": weight}}
            for model, weight in zip(models, weights, strict=True)
        ]
    }


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
        ({"vary": {"parameters.density": [0.1, 0.2]}}, "density: makes no difference"),
        (
            {"vary": {"parameters.density": [0.1, 3.0], "merge_method": ["ties", "dare_ties"]}},
            "density: with 3.0: .*outside",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_merged(
    write, tmp_path: Path, changed, message, monkeypatch
):
    monkeypatch.setattr(trying, "merge", None)
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
def test_samplers_climb(write, tmp_path: Path, monkeypatch, sampler, near):
    top = (0.3, 1.4)
    merge, evaluate = hill(top)
    monkeypatch.setattr(trying, "merge", merge)
    monkeypatch.setattr(trying, "evaluate", evaluate)
    record = ledmerge.search(write(trials=60, sampler=sampler), tmp_path / "out")
    best = record["trials"][record["best"]]
    assert best["objective"] > -(near**2)
    assert list(best["values"].values()) == pytest.approx(top, abs=near)


def test_the_recipe_as_it_stands_may_be_the_best(write, tmp_path: Path, monkeypatch):
    merge, evaluate = hill((1.0, 1.0))
    monkeypatch.setattr(trying, "merge", merge)
    monkeypatch.setattr(trying, "evaluate", evaluate)
    record = ledmerge.search(write(), tmp_path / "out")
    assert record["best"] == 0
    assert "no trial did better" in (tmp_path / "out/best.yaml").read_text()


class Noted(Quiet):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def test_the_sampler_learns_from_the_recipe_as_it_stands(write, tmp_path: Path, monkeypatch):
    merge, evaluate = hill((0.3, 1.4))
    monkeypatch.setattr(trying, "merge", merge)
    monkeypatch.setattr(trying, "evaluate", evaluate)

    def search(first):
        path = write(with_weights(write, first, 1.4), trials=12, sampler="tpe")
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


def test_a_gradient_over_the_layers(write, tmp_path: Path, fresh_cache):
    vary = {"parameters.weight": {"low": 0.0, "high": 1.0, "anchors": 2, "step": 0.5}}
    record = ledmerge.search(write(vary=vary), tmp_path / "out")
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
def test_a_missing_library_is_named(write, tmp_path: Path, monkeypatch, sampler, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RecipeError, match=f"{missing} is missing.*pip install 'optuna>=4'"):
        ledmerge.search(write(sampler=sampler), tmp_path / "out")


def test_a_finished_search_is_not_begun_again(write, tmp_path: Path, fresh_cache, monkeypatch):
    path = write()
    record = ledmerge.search(path, tmp_path / "out")
    monkeypatch.setattr(Trials, "run", None)
    assert ledmerge.search(path, tmp_path / "out", resume=True) == record
    with pytest.raises(OutputError, match="out: is finished, and had another search, recipe or"):
        ledmerge.search(write(seed=4), tmp_path / "out", resume=True)


def test_an_option_of_one_of_the_methods_is_varied(write, tmp_path: Path, fresh_cache):
    vary = {"parameters.density": [0.25, 0.75], "merge_method": ["ties", "task_arithmetic"]}
    record = ledmerge.search(write(vary=vary, trials=12), tmp_path / "out")
    digests = {
        tuple(each["values"][place] for place in vary): each["digest"]
        for each in record["trials"][1:]
    }
    assert digests[0.25, "ties"] != digests[0.75, "ties"]
    assert digests[0.25, "task_arithmetic"] == digests[0.75, "task_arithmetic"]


@pytest.mark.parametrize(
    ("options", "message"), [({"device": "tpu"}, "tpu"), ({"memory": 1}, "--memory")]
)
def test_where_it_cannot_run_nothing_is_left(write, tmp_path: Path, options, message):
    with pytest.raises(LedmergeError, match=message):
        ledmerge.search(write(), tmp_path / "out", **options)
    assert not list(tmp_path.glob(".out*"))


def test_a_place_inside_a_model_is_refused(write, model_folder, tmp_path: Path):
    model = shutil.copytree(model_folder("llama"), tmp_path / "model")
    with pytest.raises(OutputError, match="inside"):
        ledmerge.search(write(), model / "out")
    assert not list(model.glob(".out*"))


def interrupted(path, out):
    with pytest.raises(KeyboardInterrupt):
        ledmerge.search(path, out, progress=Stopped(1))


def test_the_same_search_by_another_path_goes_on(write, tmp_path: Path, fresh_cache, monkeypatch):
    path = write()
    suite = yaml.safe_load((tmp_path / "suite.yaml").read_text())
    rows = shutil.copy(suite["benchmarks"]["rows"]["data"], tmp_path / "rows.jsonl")
    suite["benchmarks"]["rows"]["data"] = rows.name
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    interrupted(path, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    record = ledmerge.search("search.yaml", "out", resume=True)
    assert len(record["trials"]) == 4


def test_an_interrupted_search_may_go_on_for_longer(write, tmp_path: Path, fresh_cache):
    interrupted(write(), tmp_path / "out")
    record = ledmerge.search(write(trials=5), tmp_path / "out", resume=True)
    assert record == ledmerge.search(write(trials=5), tmp_path / "whole")


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "random"])
def test_a_finished_search_goes_on_with_more_trials(
    write, tmp_path: Path, fresh_cache, monkeypatch, sampler
):
    out, whole = tmp_path / "out", tmp_path / "whole"
    expected = ledmerge.search(write(trials=14, sampler=sampler), whole)
    ledmerge.search(write(trials=11, sampler=sampler), out)
    tried, keep = [], Trials.run

    def counted(self, number, *rest):
        tried.append(number)
        return keep(self, number, *rest)

    monkeypatch.setattr(Trials, "run", counted)
    path = write(trials=14, sampler=sampler)
    with pytest.raises(KeyboardInterrupt):
        ledmerge.search(path, out, resume=True, progress=Stopped(12))
    assert json.loads((out / "search.json").read_text())["search"]["trials"] == 11
    assert ledmerge.search(path, out, resume=True) == expected
    assert tried == [12, 13, 14]
    names = [sorted(str(p.relative_to(of)) for p in of.rglob("*")) for of in (out, whole)]
    assert names[0] == names[1]
    assert not list(tmp_path.glob(".out*"))


def test_a_finished_search_is_not_cut_short_and_keeps_what_is_beside_it(
    write, tmp_path: Path, fresh_cache
):
    out = tmp_path / "out"
    record = ledmerge.search(write(trials=2), out)
    said = "out: is finished, with 2 trials, and 1 are asked for; ask for 2 or more, .*overwrite"
    with pytest.raises(OutputError, match=said):
        ledmerge.search(write(trials=1), out, resume=True)
    (out / "notes.md").write_text("x")
    with pytest.raises(OutputError, match=r"holds notes.md, which ledmerge did not write"):
        ledmerge.search(write(trials=3), out, resume=True)
    (out / "notes.md").rename(tmp_path / "notes.md")
    short = ledmerge.search(write(trials=1), out, resume=True, overwrite=True)
    assert short["trials"] == record["trials"][:2]
    assert sorted(path.name for path in (out / "trials").iterdir()) == ["0000", "0001"]
    interrupted(write(seed=1), tmp_path / "other")
    (tmp_path / ".other.partial").rename(tmp_path / ".out.partial")
    with pytest.raises(OutputError, match="interrupted run there had another search"):
        ledmerge.search(write(trials=3), out, resume=True)


def test_a_model_among_the_choices_that_changed_is_noticed(
    write, tmp_path: Path, model_folder, fresh_cache
):
    other = shutil.copytree(model_folder("llama", 3), tmp_path / "other")
    vary = {"models[1].model": [str(model_folder("llama", 2)), str(other)]}
    path = write(vary=vary)
    interrupted(path, tmp_path / "out")
    shutil.copy(model_folder("llama", 4) / "model.safetensors", other)
    with pytest.raises(OutputError, match="other models"):
        ledmerge.search(path, tmp_path / "out", resume=True)


def test_a_merge_that_overflows_is_passed_over(write, tmp_path: Path, fresh_cache):
    asked = {"vary": {"models[0].parameters.weight": [1e30, 1.0]}, "seed": 1}
    record = ledmerge.search(write({"dtype": "float16"}, trials=3, **asked), tmp_path / "out")
    refused = [each for each in record["trials"] if each["objective"] is None]
    assert record["trials"][-1] in refused, "choose another seed: the last leaves most behind"
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {"best.yaml", "search.json", "search.md", "trials"}
    kept = {path.name for path in (tmp_path / "out/trials").iterdir()}
    assert kept == {f"{each['number']:04}" for each in record["trials"] if each not in refused}
    assert all("overflow" in each["refused"] for each in refused)
    assert all(each["values"]["models[0].parameters.weight"] > 1 for each in refused)


def test_a_recipe_that_overflows_as_it_stands_is_refused(write, tmp_path: Path, fresh_cache):
    recipe = {"dtype": "float16", "parameters": {"weight": 1e30}}
    with pytest.raises(NonFiniteError, match="overflow"):
        ledmerge.search(write(recipe), tmp_path / "out")


def test_values_of_several_lines_are_kept_in_best_yaml(write, tmp_path: Path, fresh_cache):
    templates = ["{{ messages }}\nb", "{{ messages }}\nc"]
    record = ledmerge.search(write(vary={"chat_template": templates}), tmp_path / "out")
    merged = ledmerge.merge(tmp_path / "out/best.yaml", tmp_path / "merged")
    assert merged["digest"] == record["trials"][record["best"]]["digest"]
