"""Methods that ask for scores at the models only: the base's are neither located nor read."""

import json
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from families import (
    SHAPES,
    listen,
    random_scores,
    read_all,
    recipe,
    same,
    write_family,
    write_scores,
)

import ledmerge
from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.checkpoint.digest import cached_checkpoint_digest
from ledmerge.errors import RecipeError, ScoreError
from ledmerge.methods._catalog import get_method, method_names
from ledmerge.recipe.recipe import load_recipe
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run.progress import Quiet

CASES = {
    "fisher": ({"floor": 0.1}, [{"weight": 0.5}, {}, {}]),
    "obim": ({"priority": ["math"]}, [{"density": 0.5}, {"density": 0.3}, {"density": 0.77}]),
    "reason_any": ({"lowest": ["math"], "scope": "tensor"}, [{"density": 0.3}, {}, {}]),
}


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> list[Path]:
    """The models, and in `scores/` a score set of each expert."""
    models = write_family(tmp_path_factory.mktemp("family"))
    for seed, expert in enumerate(models[1:]):
        write_scores(models[0].parent / "scores" / expert.name, expert, random_scores(seed))
    return models


def scored_recipe(family: list[Path], method: str) -> dict:
    common, own = CASES[method]
    base, *experts = family
    given = recipe(method, base, *experts, own=own, parameters=common)
    for entry, expert in zip(given["models"], experts, strict=True):
        entry["scores"] = str(base.parent / "scores" / expert.name)
    return given


def test_every_such_method_has_a_case():
    methods = map(get_method, method_names())
    assert CASES.keys() == {m.name for m in methods if m.needs_scores and m.scored_at == ("model",)}


@pytest.mark.parametrize("name", CASES)
def test_a_merge_is_the_method_on_whole_tensors_cast_once(family, tmp_path: Path, name: str):
    given = scored_recipe(family, name)
    found = load_recipe(given)
    for folder, how in (("one", {"threads": 1}), ("many", {"threads": 3, "shard_size": 1000})):
        record = ledmerge.merge(given, tmp_path / folder, **how)
        merged = read_all(tmp_path / folder)
        base, models = read_all(family[0]), [read_all(Path(path)) for path in found.models]
        scores = [read_all(Path(source.scores)) for source in found.sources]
        for tensor in SHAPES:
            start, stack = base[tensor].float(), torch.stack([m[tensor].float() for m in models])
            inputs = [stack] if name == "fisher" else [start, stack - start]
            told = torch.stack([each[tensor] for each in scores])
            whole = found.method.function(*inputs, scores=told, **found.options)
            assert same(merged[tensor], whole.to(base[tensor].dtype)), tensor
    labels = [source["model"] for source in record["inputs"]]
    assert [label for label in labels if "scores" in label] == [
        f"the scores of {model.name}" for model in family[1:]
    ]
    again = ledmerge.merge(record["recipe"], tmp_path / "again")
    assert again["digest"] == record["digest"]


def test_a_plan_counts_one_score_set_for_each_model(family):
    plan = ledmerge.plan(scored_recipe(family, "obim"))
    assert plan.problems == []
    assert plan.score_bytes == 3 * 4 * sum(
        torch.Size(shape).numel() for shape, _ in SHAPES.values()
    )


def test_scores_made_for_another_model_are_refused(family, tmp_path: Path, monkeypatch):
    given = scored_recipe(family, "obim")
    given["models"][0]["scores"] = given["models"][1]["scores"]
    said = "these are the scores of 'math', which has other weights than safety"
    assert sum(said in problem for problem in ledmerge.plan(given).problems) == 1
    with pytest.raises(RecipeError, match=said):
        ledmerge.merge(given, tmp_path / "out")
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    assert ledmerge.plan(given).problems == []  # which reads no weights to compare
    with pytest.raises(ScoreError, match=said):
        ledmerge.merge(given, tmp_path / "out")


def test_scores_of_other_weights_of_a_model_are_refused(family, tmp_path: Path):
    given, safety = scored_recipe(family, "obim"), family[1]
    mark = write_scores(tmp_path / "s", safety, random_scores(7)) / "scores.json"
    told = json.loads(mark.read_text())
    told["model"]["digest"] = "0" * 32
    mark.write_text(json.dumps(told))
    given["models"][0]["scores"] = str(tmp_path / "s")
    with pytest.raises(RecipeError, match="made for 'safety' with other weights than safety has"):
        ledmerge.merge(given, tmp_path / "out")


def test_one_set_for_expert_and_base_is_told_by_the_plan(family, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    base, *experts = family
    given = recipe("led", base, *experts, parameters={"density": 0.5})
    for entry, expert in zip(given["models"], experts, strict=True):
        entry["scores"] = str(base.parent / "scores" / expert.name)
        entry["base_scores"] = entry["scores"]
    said = f"{base.parent}/scores/safety: these are the scores of 'safety'"
    plan = ledmerge.plan(given)
    assert (plan.problems, sum(said in note for note in plan.notes)) == ([], 1)
    with open_checkpoint(base) as checkpoint:
        cached_checkpoint_digest(checkpoint)
    plan = ledmerge.plan(given)
    assert sum(f"{said}, which has other weights than base" in p for p in plan.problems) == 1


def test_only_the_models_are_located(model_folder, rows_file: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    base, *experts = (model_folder("llama_tied", seed) for seed in range(3))
    given = recipe("obim", base, *experts, parameters={"density": 0.4})
    given |= {"locate": {"samples": 2, "score": "obim"}, "dtype": "float32"}
    for entry in given["models"]:
        entry["locate"] = {"data": str(rows_file)}
    facts = ledmerge.plan(given).as_json(1, tmp_path)
    assert facts["problems"] == []
    assert "at the model, unless" in facts["scores"][0]
    progress, heard = listen()
    ledmerge.merge(given, tmp_path / "out", progress=progress)
    located = [start[0] for start in heard if isinstance(start, tuple) and "locate" in start[0]]
    assert located == [f"locate {expert.name}" for expert in experts]


def test_a_result_that_was_located_on_the_way_is_not_merged_again(
    model_folder, rows_file: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    base, first, second = (model_folder("llama_tied", seed) for seed in range(3))
    half = recipe("linear", base, first, second, name="half")
    given = recipe("obim", base, Path("half"), second, parameters={"density": 0.4})
    given |= {"locate": {"samples": 2, "score": "obim"}, "dtype": "float32"}
    for entry in given["models"]:
        entry["locate"] = {"data": str(rows_file)}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump_all([half, given]))
    record = ledmerge.merge(tmp_path / "recipe.yaml", tmp_path / "out")
    progress, heard = listen()
    again = ledmerge.merge(
        tmp_path / "recipe.yaml", tmp_path / "out", resume=True, progress=progress
    )
    assert again == record
    assert not any(isinstance(each, tuple) for each in heard)  # nothing but notes


@pytest.mark.parametrize("store", ["float32", "codes"])
@pytest.mark.parametrize("named", [False, True])
def test_scores_that_are_not_what_was_located_are_refused(
    model_folder, rows_file: Path, tmp_path: Path, monkeypatch, store: str, named: bool
):
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    base, expert = (model_folder("llama_tied", seed) for seed in range(2))
    given = recipe("obim", base, expert, parameters={"density": 0.5}) | {"dtype": "float32"}
    how = {"samples": 2, "score": "obim", "store": store}
    if named:
        settings = LocateSettings(**how)
        ledmerge.locate(expert, tmp_path / "scores", rows_file, reference=base, settings=settings)
        given["models"][0]["scores"] = str(tmp_path / "scores")
    else:
        given["models"][0]["locate"] = how | {"data": str(rows_file)}
    right = ledmerge.merge(given, tmp_path / "right")
    (folder,) = [tmp_path / "scores"] if named else (tmp_path / "cache" / "scores").iterdir()
    file = folder / "scores.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + bytes(3 - byte % 2 for byte in whole[-4:]))
    with pytest.raises(ScoreError, match=r"are not those that were located.*remove this folder"):
        ledmerge.merge(given, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()
    if not named:
        shutil.rmtree(folder)
        again = ledmerge.merge(given, tmp_path / "wrong", overwrite=True)
        assert [t["digest"] for t in again["tensors"].values()] == [
            t["digest"] for t in right["tensors"].values()
        ]


def test_scores_that_another_process_is_locating_are_waited_for(
    model_folder, rows_file: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    # One expert: transformers cannot load two models in two threads of one process.
    base, expert = (model_folder("llama_tied", seed) for seed in range(2))
    given = recipe("obim", base, expert, parameters={"density": 0.4})
    given |= {"locate": {"samples": 2, "score": "obim"}, "dtype": "float32"}
    for entry in given["models"]:
        entry["locate"] = {"data": str(rows_file)}
    waits, located = threading.Event(), []

    class Second(Quiet):
        def note(self, text: str) -> None:
            if "waiting for them" in text:
                waits.set()

        def start(self, what: str, *_: object, **__: object) -> None:
            located.extend([what] * what.startswith("locate"))

    pool = ThreadPoolExecutor(1)
    second: list[Future] = []

    def advance() -> None:
        if not second:
            where = tmp_path / "second"
            second.append(pool.submit(ledmerge.merge, given, where, progress=Second()))
            assert waits.wait(60)

    with pool:
        first = ledmerge.merge(given, tmp_path / "first", progress=listen(advance)[0])
        assert second[0].result()["digest"] == first["digest"]
    assert located == []


@pytest.mark.parametrize(
    ("method", "keep"), [("ties", "safety"), ("ties", "base"), ("tsvm", "base")]
)
def test_a_guard_keeps_weights_where_they_matter_to_its_model(
    family, tmp_path: Path, method: str, keep: str
):
    base, safety, *_ = family
    given = recipe(method, *family, dtype="float32")
    given["models"][0]["scores"] = str(base.parent / "scores" / "safety")
    ledmerge.merge(given, tmp_path / "plain")
    given["guard"] = {"scores": "safety", "density": 0.2, "keep": keep}
    record = ledmerge.merge(given, tmp_path / "guarded")
    plain, merged = read_all(tmp_path / "plain"), read_all(tmp_path / "guarded")
    kept, scores = read_all(safety if keep == "safety" else base), random_scores(0)
    for name in SHAPES:
        order = scores[name].flatten().argsort(descending=True, stable=True)
        place = order[: int(0.2 * order.numel())]
        expected = plain[name].flatten().clone()
        expected[place] = kept[name].float().flatten()[place]
        torch.testing.assert_close(merged[name].flatten(), expected, rtol=1e-6, atol=0)
    assert record["recipe"]["guard"]["density"] == 0.2
    again = ledmerge.merge(record["recipe"], tmp_path / "again")
    assert again["digest"] == record["digest"]


def test_data_with_fewer_rows_than_samples_are_told_of(
    model_folder, rows_file: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    experts = [model_folder("llama_tied", seed) for seed in (1, 2)]
    given = recipe("fisher", None, *experts) | {"dtype": "float32"}
    for entry, samples in zip(given["models"], (1000, 24), strict=True):
        entry["locate"] = {"data": str(rows_file), "samples": samples, "score": "fisher"}
    said = "rows.jsonl has 24 rows, fewer than the 1,000 samples asked for; all are used"
    plan = ledmerge.plan(given)
    assert plan.notes.count(said) == 1
    for told in plan.as_json(1, tmp_path)["scores"]:
        assert told.startswith(f"fisher on 24 rows of {rows_file}")
    progress, heard = listen()
    record = ledmerge.merge(given, tmp_path / "out", progress=progress)
    assert heard.count(said) == 1
    located = [{"data": "rows.jsonl", "asked": asked, "used": 24} for asked in (1000, 24)]
    assert record["located_on"] == located
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.count("`rows.jsonl` has 24 rows, fewer than `samples: 1000`; all were used.") == 1
    assert "`samples: 24`" not in card
    assert ledmerge.verify(tmp_path / "out", deep=True)["deep"]


def test_a_rule_that_needs_no_rows_is_planned_without_them(model_folder, rows_file, tmp_path: Path):
    given = recipe("fisher", None, model_folder("llama_tied", 1), model_folder("llama_tied", 2))
    for entry in given["models"]:
        entry["locate"] = {"data": str(rows_file), "samples": 1000, "score": "magnitude"}
    plan = ledmerge.plan(given)
    assert not any("samples" in note for note in plan.notes)
    assert plan.as_json(1, tmp_path)["scores"][0].startswith("magnitude, at the model, unless")
