"""LED merges with scores on disk, against elections by sorting; and from data, once located."""

import json
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from families import (
    SHAPES,
    files_of,
    listen,
    random_scores,
    read_all,
    recipe,
    same,
    write_family,
    write_model,
    write_scores,
)

import ledmerge
from ledmerge.checkpoint import staging
from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.errors import NonFiniteError, OutputError, RecipeError
from ledmerge.methods.led import led
from ledmerge.models.roles import layer_of
from ledmerge.recipe.recipe import load_recipe
from ledmerge.run import score_sets
from ledmerge.run.planned import IDLE_MEMORY

DENSITIES = [0.5, 0.3, 0.77]
WEIGHTS = [1.0, 0.7, 1.3]


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> list[Path]:
    """The models, and in `scores/` each expert's score sets at the expert and at the base."""
    models = write_family(tmp_path_factory.mktemp("family"))
    base, *experts = models
    for place, expert in enumerate(experts):
        scores = base.parent / "scores"
        rows = f"rows of {expert.name}"
        for at, model, seed in (("own", expert, place), ("base", base, 100 + place)):
            folder = scores / f"{expert.name}-{at}"
            write_scores(folder, model, random_scores(seed), data={"name": "d", "rows": rows})
    return models


def led_recipe(family: list[Path], count: int = 3, **parameters: object) -> dict:
    base, *experts = family[: count + 1]
    own = [{"density": d, "weight": w} for d, w in zip(DENSITIES, WEIGHTS, strict=False)][:count]
    given = recipe("led", base, *experts, own=own, parameters=parameters)
    for entry, expert in zip(given["models"], experts, strict=False):
        scores = base.parent / "scores"
        entry["scores"] = str(scores / f"{expert.name}-own")
        entry["base_scores"] = str(scores / f"{expert.name}-base")
    return given


def top(scores: np.ndarray, share: float) -> np.ndarray:
    """The int(share * n) highest, equal ones to the lower place, by sorting."""
    mask = np.zeros(scores.size, dtype=bool)
    mask[np.argsort(-scores, kind="stable")[: int(share * scores.size)]] = True
    return mask


def merged_by_hand(given: dict, scope: str) -> dict[str, torch.Tensor]:
    """Symmetric LED over units of tensors laid end to end in the order of the base's file."""
    base_folder = Path(given["base_model"])
    base = read_all(base_folder)
    models = [read_all(Path(entry["model"])) for entry in given["models"]]
    own = [read_all(Path(entry["scores"])) for entry in given["models"]]
    at_base = [read_all(Path(entry["base_scores"])) for entry in given["models"]]
    with open_checkpoint(base_folder) as checkpoint:
        order = [name for name in checkpoint.entries if name in SHAPES]
    units: dict[str, list[str]] = {}
    for name in order:
        unit = {"tensor": name, "layer": layer_of(name) or name, "global": ""}[scope]
        units.setdefault(unit, []).append(name)

    merged = {}
    for names in units.values():

        def end_to_end(tensors: dict[str, torch.Tensor], names=names) -> np.ndarray:
            return torch.cat([tensors[name].float().flatten() for name in names]).numpy()

        elected = [
            top(end_to_end(ours), share) & top(end_to_end(theirs), share)
            for ours, theirs, share in zip(own, at_base, DENSITIES, strict=False)
        ]
        contested = np.sum(elected, axis=0) > 1
        start = end_to_end(base)
        update = np.zeros_like(start)
        for model, mask, weight in zip(models, elected, WEIGHTS, strict=False):
            update += (end_to_end(model) - start) * (mask & ~contested) * np.float32(weight)
        flat = torch.from_numpy(start + update)
        for name, part in zip(names, flat.split([base[n].numel() for n in names]), strict=True):
            merged[name] = part.view(base[name].shape).to(base[name].dtype)
    return merged


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("scope", ["tensor", "layer", "global"])
def test_a_merge_equals_an_election_by_sorting(family, tmp_path: Path, scope: str, count: int):
    given = led_recipe(family, count, scope=scope)
    expected = merged_by_hand(given, scope)
    for folder, how in (("one", {"threads": 1}), ("many", {"threads": 3, "shard_size": 1000})):
        ledmerge.merge(given, tmp_path / folder, **how)
        merged = read_all(tmp_path / folder)
        assert [name for name in expected if not same(merged[name], expected[name])] == []


VARIANTS = [
    {"elect": elect, "disjoint": "symmetric"}
    for elect in ("expert", "base_only", "expert_only", "neither")
]
VARIANTS += [{"disjoint": disjoint} for disjoint in ("none", "share", "conflicting", "winner")]
VARIANTS += [
    {"disjoint": "priority", "priority": ["code", "math"]},
    {"disjoint": "winner", "select": "bottom", "rescale": "norm"},
]


@pytest.mark.parametrize(
    "options", VARIANTS, ids=lambda options: ", ".join(map(str, options.values()))
)
def test_every_variant_equals_the_method_on_whole_tensors(family, tmp_path: Path, options: dict):
    given = led_recipe(family, **options)
    found = load_recipe(given)
    ledmerge.merge(given, tmp_path / "out", threads=2)
    merged = read_all(tmp_path / "out")
    base, models = read_all(Path(found.base)), [read_all(Path(path)) for path in found.models]
    own = [read_all(Path(source.scores)) for source in found.sources]
    at_base = [read_all(Path(source.base_scores)) for source in found.sources]
    for name in SHAPES:
        start = base[name].float()
        whole = led(
            start,
            torch.stack([model[name].float() for model in models]) - start,
            scores=torch.stack([scores[name] for scores in own]),
            base_scores=torch.stack([scores[name] for scores in at_base]),
            **found.options,
        )
        assert same(merged[name], whole.to(base[name].dtype)), name


def test_the_figures_count_what_was_elected_and_kept(family, tmp_path: Path):
    given = led_recipe(family, scope="tensor", disjoint="symmetric")
    summary = ledmerge.merge(given, tmp_path / "out")["summary"]
    own, at_base = (
        [read_all(Path(entry[key])) for entry in given["models"]]
        for key in ("scores", "base_scores")
    )
    elected = np.zeros((3, 3))
    owned = np.zeros(3)
    entries = 0
    for name in SHAPES:
        masks = np.stack(
            [
                top(a[name].flatten().numpy(), d) & top(b[name].flatten().numpy(), d)
                for a, b, d in zip(own, at_base, DENSITIES, strict=False)
            ]
        )
        entries += masks.shape[1]
        elected += masks.astype(float) @ masks.T.astype(float)
        owned += (masks & (masks.sum(0) == 1)).sum(1)
    assert summary["models"] == ["safety", "math", "code"]
    assert summary["entries"] == entries
    assert summary["elected"] == pytest.approx((elected.diagonal() / entries).tolist())
    assert summary["owned"] == pytest.approx((owned / entries).tolist())
    smaller = np.minimum.outer(elected.diagonal(), elected.diagonal())
    assert np.asarray(summary["overlap"]) == pytest.approx(elected / smaller)


def test_an_expert_that_keeps_almost_nothing_is_warned_of(family, tmp_path: Path):
    given = led_recipe(family)
    given["models"][0]["parameters"]["density"] = 0.01
    summary = ledmerge.merge(given, tmp_path / "out")["summary"]
    (warning,) = summary["warnings"]
    assert warning.startswith("safety keeps 0.")


def test_a_tensor_without_scores_keeps_the_base_and_says_why(family, tmp_path: Path):
    base, safety, *_ = family
    scores = random_scores(0)
    del scores["model.layers.0.norm.weight"]
    given = led_recipe(family)
    write_scores(tmp_path / "s", safety, scores, data={"name": "d", "rows": "rows of safety"})
    given["models"][0]["scores"] = str(tmp_path / "s")
    record = ledmerge.merge({**given, "dtype": "bfloat16"}, tmp_path / "out")
    line = record["tensors"]["model.layers.0.norm.weight"]
    assert (line["action"], line["reason"]) == ("copy", "no scores for safety")
    kept = read_all(tmp_path / "out")["model.layers.0.norm.weight"]
    assert same(kept, read_all(base)["model.layers.0.norm.weight"].bfloat16())


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (float("nan"), "bfloat16", "'w' in base holds NaN or infinite"),
        (float("inf"), None, "'w' in base holds NaN or infinite"),
        (1e6, "float16", "'w': .* overflow F16"),
    ],
)
def test_a_copied_weight_is_checked_like_a_merged_one(tmp_path: Path, value, dtype, said):
    tensors = {"v": torch.ones(4), "w": torch.tensor([1.0, value])}
    base, expert = (write_model(tmp_path / name, tensors) for name in ("base", "expert"))
    given = recipe("led", base, expert, own=[{"density": 0.5}], dtype=dtype)
    for key, model in (("scores", expert), ("base_scores", base)):
        folder = write_scores(tmp_path / key, model, {"v": torch.ones(4)})
        given["models"][0][key] = str(folder)
    with pytest.raises(NonFiniteError, match=said):
        ledmerge.merge(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ledmerge.merge(given, tmp_path / "out", overwrite=True, allow_nonfinite=True)


def test_scores_made_for_another_model_are_refused(family, tmp_path: Path):
    _, safety, math, _ = family
    given = led_recipe(family, 2)
    rows = {"name": "d", "rows": "rows of safety"}
    for key, wrong, named in (("scores", math, "safety"), ("base_scores", safety, "base")):
        folder = write_scores(tmp_path / key, wrong, random_scores(0), data=rows)
        changed = {**given, "models": [{**given["models"][0], key: str(folder)}]}
        said = (
            f"{key}: these are the scores of '{wrong.name}', which has other weights than {named}"
        )
        with pytest.raises(RecipeError, match=said):
            ledmerge.merge(changed, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("change", [{"data": {"name": "d", "rows": "x"}}, {"score": "fisher"}])
def test_a_pair_of_scores_must_be_alike(family, tmp_path: Path, change: dict):
    given = led_recipe(family, 1)
    given["models"][0]["scores"] = str(
        write_scores(tmp_path / "s", family[1], random_scores(0), **change)
    )
    with pytest.raises(
        RecipeError, match=r"of the expert's scores and of the base's differ .*alike"
    ):
        ledmerge.merge(given, tmp_path / "out")


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"model": 3}'])
def test_a_score_folder_without_its_provenance_is_refused(family, tmp_path: Path, text: str | None):
    given = led_recipe(family, 1)
    folder = write_scores(tmp_path / "s", family[1], random_scores(0))
    given["models"][0]["scores"] = str(folder)
    (folder / "scores.json").unlink()
    if text is not None:
        (folder / "scores.json").write_text(text)
    with pytest.raises(RecipeError, match=f"{folder}: no readable scores.json"):
        ledmerge.merge(given, tmp_path / "out")


def test_scores_that_are_no_numbers_are_named(family, tmp_path: Path):
    scores = random_scores(0)
    scores["model.layers.0.norm.weight"][3] = float("nan")
    given = led_recipe(family, 1)
    rows = {"name": "d", "rows": "rows of safety"}
    given["models"][0]["scores"] = str(write_scores(tmp_path / "s", family[1], scores, data=rows))
    said = r"'model\.layers\.0\.norm\.weight' in the scores of safety holds NaN"
    with pytest.raises(NonFiniteError, match=said):
        ledmerge.merge(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def data_recipe(model_folder, rows_file: Path, *densities: float) -> dict:
    base, *experts = (model_folder("llama_tied", seed) for seed in range(3))
    given = recipe("led", base, *experts, own=[{"density": d} for d in densities])
    for entry in given["models"]:
        entry["locate"] = {"data": str(rows_file)}
    return {**given, "locate": {"samples": 3}, "dtype": "float32"}


def test_a_finished_merge_is_known_by_what_its_scores_are_about(
    model_folder, rows_file: Path, tmp_path: Path, fresh_cache
):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows_file.read_text())
    given = data_recipe(model_folder, rows, 0.3, 0.6)
    record = ledmerge.merge(given, tmp_path / "out")
    fresh_cache("another")
    assert ledmerge.merge(given, tmp_path / "out", resume=True) == record
    assert not (tmp_path / "another" / "scores").exists()  # they are known before they are located
    rows.write_text("".join(rows.read_text().splitlines(True)[::-1]))
    with pytest.raises(OutputError, match="is finished, and had other inputs"):
        ledmerge.merge(given, tmp_path / "out", resume=True)
    assert not (tmp_path / "another" / "scores").exists()


Usage = namedtuple("Usage", "total used free")


def test_room_for_all_score_sets_is_asked_for_before_the_first(
    model_folder, rows_file: Path, tmp_path: Path, fresh_cache, monkeypatch
):
    def set_free(free: int) -> None:
        def usage(place: Path) -> Usage:
            return Usage(0, 0, free if tmp_path / "cache" in (place, *place.parents) else 10**12)

        monkeypatch.setattr(staging.shutil, "disk_usage", usage)

    given = data_recipe(model_folder, rows_file, 0.3, 0.6)
    size = 4 * sum(tensor.numel() for tensor in read_all(Path(given["base_model"])).values())
    set_free(3 * size - 1)
    with pytest.raises(OutputError, match=f"3 sets of scores need {3 * size:,} bytes, .*_CACHE"):
        ledmerge.merge(given, tmp_path / "out")
    assert not list((tmp_path / "cache" / "scores").glob("[!.]*"))
    set_free(3 * size)
    ledmerge.merge(given, tmp_path / "out")
    other = data_recipe(model_folder, rows_file, 0.3, 0.6)
    other["models"][0]["locate"]["samples"] = 4
    set_free(size)  # one more at the expert and one at the base
    with pytest.raises(OutputError, match=f"2 sets of scores need {2 * size:,} bytes"):
        ledmerge.merge(other, tmp_path / "another")
    set_free(0)
    ledmerge.merge(given, tmp_path / "again")


def test_scores_are_located_once_and_the_next_merge_starts_at_the_election(
    model_folder, rows_file: Path, tmp_path: Path, monkeypatch
):
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    progress, heard = listen()
    ledmerge.merge(
        data_recipe(model_folder, rows_file, 0.3, 0.6), tmp_path / "first", progress=progress
    )
    located = [start[0] for start in heard if isinstance(start, tuple) and "locate" in start[0]]
    assert len(located) == 3  # each expert on its data, and the base once: both name the same
    assert len(list((tmp_path / "cache" / "scores").iterdir())) == 3

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("located again")

    monkeypatch.setattr(score_sets, "locate_question", fail)
    given = data_recipe(model_folder, rows_file, 0.5, 0.5)
    record = ledmerge.merge(given, tmp_path / "second")
    assert record["recipe"]["models"][0]["locate"]["samples"] == 3
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "second")
    tokens = model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, min_new_tokens=3)
    assert tokens.shape == (1, 5)

    with pytest.raises(AssertionError, match="located again"):
        ledmerge.merge({**given, "locate": {"samples": 4}}, tmp_path / "third")


def test_data_that_is_missing_is_named_before_anything_is_located(
    model_folder, rows_file: Path, tmp_path: Path
):
    given = data_recipe(model_folder, rows_file, 0.3, 0.6)
    given["models"][1]["locate"]["data"] = str(tmp_path / "none.jsonl")
    assert any("none.jsonl" in problem for problem in ledmerge.plan(given).problems)
    with pytest.raises(RecipeError, match=r"none.jsonl"):
        ledmerge.merge(given, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_tells_where_scores_will_come_from(model_folder, rows_file: Path, tmp_path: Path):
    facts = ledmerge.plan(data_recipe(model_folder, rows_file, 0.3, 0.6)).as_json(1, tmp_path)
    assert facts["scores"][0].startswith(f"snip on 3 rows of {rows_file}, at the expert and at")
    assert facts["score_bytes"] == 2 * 2 * 4 * facts["parameters"]
    assert facts["locate_memory"] == IDLE_MEMORY + (4 + 4) * facts["parameters"]
    assert json.dumps(facts)


def test_density_out_of_range_is_refused_before_any_file_is_opened(family, tmp_path: Path):
    given = led_recipe(family)
    given["models"][0]["parameters"]["density"] = 1.01
    with pytest.raises(RecipeError, match=r"models\[0\].parameters.density: 1.01 is outside"):
        ledmerge.merge({**given, "base_model": "nowhere"}, tmp_path / "out")


def test_a_damaged_score_file_is_named(family, tmp_path: Path):
    given = led_recipe(family, 1)
    folder = write_scores(tmp_path / "s", family[1], random_scores(0))
    with (folder / "scores.safetensors").open("ab") as file:
        file.write(b"x")
    given["models"][0]["scores"] = str(folder)
    with pytest.raises(RecipeError, match=r"s/scores.safetensors: .*damaged"):
        ledmerge.merge(given, tmp_path / "out")
    assert files_of(tmp_path / "s").keys() == {"scores.safetensors", "scores.json"}
