"""Score sets of rank codes, from locating to the merged folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from families import (
    random_scores,
    read_all,
    recipe,
    same,
    write_family,
    write_scores,
)
from safetensors.torch import load_file, save_file
from vocabularies import PETS, train, write, write_shuffled

import ledmerge
from ledmerge.errors import NonFiniteError, RecipeError
from ledmerge.ops.rank_codes import rank_codes
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run.locate import locate

DENSITIES = [0.5, 77 / 256, 197 / 256]


def coded(scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: rank_codes(score) for name, score in scores.items()}


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> list[Path]:
    """The models, and each expert's score sets twice: in `float32/` and in `codes/`."""
    models = write_family(tmp_path_factory.mktemp("family"))
    base, *experts = models
    for place, expert in enumerate(experts):
        for key, model, seed in (("scores", expert, place), ("base_scores", base, 100 + place)):
            scores, data = random_scores(seed), {"rows": expert.name, "name": "d"}
            name = f"{expert.name}-{key}"
            write_scores(base.parent / "float32" / name, model, scores, data=data)
            folder = base.parent / "codes" / name
            write_scores(folder, model, coded(scores), data=data, stored="codes")
    return models


def scored(
    family: list[Path], stored: str, method: str = "led", keys=("scores", "base_scores"), **options
) -> dict:
    base, *experts = family
    own = [{"density": density} for density in DENSITIES]
    own = [{}] * 3 if method == "fisher" else own
    given = recipe(method, base, *experts, own=own, parameters=options)
    for entry, expert in zip(given["models"], experts, strict=True):
        for key in keys:
            entry[key] = str(base.parent / stored / f"{expert.name}-{key}")
    return given


@pytest.mark.parametrize(
    "options", [{}, {"elect": "expert_only", "disjoint": "share"}, {"rescale": "norm"}], ids=str
)
def test_a_merge_with_codes_is_the_one_with_scores(family, tmp_path: Path, options: dict):
    records = {}
    for stored in ("float32", "codes"):
        out = tmp_path / stored
        records[stored] = ledmerge.merge(scored(family, stored, **options), out, threads=2)
    for name, tensor in read_all(tmp_path / "float32").items():
        assert same(read_all(tmp_path / "codes")[name], tensor), name
    assert records["codes"]["summary"] == records["float32"]["summary"]
    assert ledmerge.verify(tmp_path / "codes", deep=True)["deep"]


def test_a_plan_counts_a_byte_for_each_score(family):
    plans = [ledmerge.plan(scored(family, stored)) for stored in ("codes", "float32")]
    assert [plan.problems for plan in plans] == [[], []]
    assert 4 * plans[0].score_bytes == plans[1].score_bytes > 0


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("led", {"disjoint": "winner"}, "'disjoint: winner'"),
        ("led", {"select": "bottom"}, "'select: bottom'"),
        ("led", {"scope": "global"}, "scope: found 'global'"),
        ("reason_any", {"lowest": ["math"], "scope": "tensor"}, "'lowest'"),
        ("fisher", {}, "fisher computes with the values of scores, .*'store: float32'"),
    ],
)
def test_what_codes_do_not_tell_shows_in_the_plan(family, method: str, options: dict, said: str):
    keys = ("scores", "base_scores") if method == "led" else ("scores",)
    planned = ledmerge.plan(scored(family, "codes", method, keys, **options))
    (problem,) = planned.problems
    with pytest.raises(RecipeError, match=said):
        raise RecipeError(problem)


def test_a_density_between_two_steps_shows_in_the_plan(family):
    given = scored(family, "codes")
    given["models"][1]["parameters"]["density"] = 0.3
    (problem,) = ledmerge.plan(given).problems
    assert "density: found 0.3" in problem
    assert "0.296875 (76/256) or 0.30078125 (77/256)" in problem


def test_codes_beside_scores_are_refused(family):
    given = scored(family, "codes")
    given["models"][2]["base_scores"] = scored(family, "float32")["models"][2]["base_scores"]
    (problem,) = ledmerge.plan(given).problems
    assert "are rank codes, those of" in problem
    assert "locate all with one `store`" in problem


def test_bytes_that_nobody_says_are_codes_are_refused(family, tmp_path: Path):
    given = scored(family, "codes")
    folder = write_scores(tmp_path / "s", family[1], coded(random_scores(0)))
    given["models"][0]["scores"] = str(folder)
    with pytest.raises(
        RecipeError, match=r"its tensors are codes, its scores\.json says 'float32'"
    ):
        ledmerge.merge(given, tmp_path / "out")


def test_a_guard_by_codes_is_one_by_scores(family, tmp_path: Path):
    base, *_ = family
    for stored in ("float32", "codes"):
        given = recipe("ties", *family)
        given["models"][0]["scores"] = str(base.parent / stored / "safety-scores")
        given["guard"] = {"scores": "safety", "density": 0.25, "keep": "safety"}
        ledmerge.merge(given, tmp_path / stored)
    merged, expected = read_all(tmp_path / "codes"), read_all(tmp_path / "float32")
    assert all(same(merged[name], tensor) for name, tensor in expected.items())


def test_located_codes_are_those_of_the_scores(model_folder, rows_file: Path, tmp_path: Path):
    model = model_folder("llama_tied", 0)
    for store in ("float32", "codes"):
        settings = LocateSettings(samples=2, store=store)
        provenance = locate(model, tmp_path / store, rows_file, settings=settings)
        assert provenance["stored"] == store
        told = json.loads((tmp_path / store / "scores.json").read_text())
        assert {key: told[key] for key in told if key not in ("digests", "written")} == provenance
    scores, codes = read_all(tmp_path / "float32"), read_all(tmp_path / "codes")
    assert codes.keys() == scores.keys()
    for name, score in scores.items():
        assert same(codes[name], rank_codes(score)), name
    given = {"loss": "mean", "samples": 2, "store": "codes", "score": "gram"}
    with pytest.raises(RecipeError, match="store: found 'codes', but score 'gram'"):
        locate(model, tmp_path / "g", rows_file, settings=LocateSettings.model_validate(given))


def test_codes_to_be_located_are_checked_and_kept_apart(
    model_folder, rows_file: Path, tmp_path: Path, fresh_cache
):
    base, *experts = (model_folder("llama_tied", seed) for seed in range(3))
    own = [{"density": 0.3}, {"density": 0.25}]
    given = recipe("led", base, *experts, own=own, dtype="float32")
    given["locate"] = {"samples": 2, "store": "codes"}
    for entry in given["models"]:
        entry["locate"] = {"data": str(rows_file)}
    (problem,) = ledmerge.plan(given).problems
    assert "density: found 0.3" in problem
    given["models"][0]["parameters"]["density"] = 0.5
    facts = ledmerge.plan(given)
    assert facts.problems == []
    assert facts.score_bytes == 4 * sum(tensor.new.numel for tensor in facts.tensors)
    ledmerge.merge(given, tmp_path / "codes")
    given["locate"]["store"] = "float32"
    ledmerge.merge(given, tmp_path / "float32")
    assert len(list((tmp_path / "cache" / "scores").iterdir())) == 6
    merged, expected = read_all(tmp_path / "codes"), read_all(tmp_path / "float32")
    assert all(same(merged[name], tensor) for name, tensor in expected.items())
    given["models"][0]["locate"]["store"] = "codes"
    assert "are rank codes, those of" in ledmerge.plan(given).problems[0]


def test_codes_of_rows_that_move_are_refused(tmp_path: Path):
    base = write(tmp_path / "base", train("bpe", PETS), 0)
    other = write_shuffled(tmp_path / "other", base)
    given = recipe("led", base, other, own=[{"density": 0.5}], tokenizer_source="base")
    entry = given["models"][0]
    for key, model in (("scores", other), ("base_scores", base)):
        scores = {name: tensor.float().abs() for name, tensor in read_all(model).items()}
        folder = write_scores(tmp_path / key, model, coded(scores), stored="codes")
        entry[key] = str(folder)
    (problem,) = ledmerge.plan(given).problems
    assert problem.startswith("other: the rows of its tokens are not those of the result")
    # The base's rows stay where they are, and where nothing else is scored codes will do.
    given = recipe("linear", base, other, tokenizer_source="base")
    given["base_model"] = str(base)
    given["models"].insert(0, {"model": str(base), "scores": str(tmp_path / "base_scores")})
    given["guard"] = {"scores": str(base), "density": 0.5, "keep": str(base)}
    assert ledmerge.plan(given).problems == []
    ledmerge.merge(given, tmp_path / "out")


def test_codes_of_scores_that_are_not_finite_are_taken_only_where_asked(
    model_folder, rows_file, tmp_path: Path, fresh_cache
):
    expert = shutil.copytree(model_folder("llama"), tmp_path / "expert")
    tensors = load_file(expert / "model.safetensors")
    tensors["lm_head.weight"].fill_(3e38)  # itself finite
    save_file(tensors, expert / "model.safetensors", metadata={"format": "pt"})
    given = recipe("led", model_folder("llama"), expert, own=[{"density": 0.5}])
    located = {"data": str(rows_file), "samples": 4, "store": "codes"}
    given["models"][0]["locate"] = located
    ledmerge.merge(given, tmp_path / "first", allow_nonfinite=True)
    marks = [json.loads(mark.read_text()) for mark in tmp_path.glob("cache/scores/*/scores.json")]
    assert sum("model.norm.weight" in mark.get("nonfinite", ()) for mark in marks) == 1
    with pytest.raises(NonFiniteError, match="held NaN or infinite values, which locating was"):
        ledmerge.merge(given, tmp_path / "out")
    ledmerge.merge(given, tmp_path / "out", allow_nonfinite=True)
    fresh_cache("another")
    assert ledmerge.verify(tmp_path / "out", deep=True)["deep"]
