"""Slices by methods that need scores or Gram matrices: each layer takes its scores with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from families import listen, read_all, same, stop_after, write_model, write_scores
from rich.console import Console

import ledmerge
from ledmerge.cli.tables import merge_table
from ledmerge.errors import RecipeError
from ledmerge.ops.rank_codes import rank_codes
from ledmerge.run.explain import explain

EMBEDDING, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
OUTSIDE = (EMBEDDING, NORM, HEAD)
SHAPE, NUM_LAYERS = (6, 8), 3
DENSITIES = (0.5, 77 / 256)


def layer(number: int) -> str:
    return f"model.layers.{number}.mlp.weight"


NAMES = (*OUTSIDE, *map(layer, range(NUM_LAYERS)))


def drawn(seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(SHAPE, generator=draw) for name in NAMES}


def scores_of(seed: int) -> dict[str, torch.Tensor]:
    """Whole numbers below 20, so that many are equal."""
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randint(20, SHAPE, generator=draw).float() for name in NAMES}


@pytest.fixture
def family(tmp_path: Path) -> list[Path]:
    """base, math and code; beside them the score sets of both experts, there and at the base."""
    made = [
        write_model(tmp_path / name, drawn(seed), num_hidden_layers=NUM_LAYERS)
        for seed, name in enumerate(("base", "math", "code"))
    ]
    base, *experts = made
    for place, expert in enumerate(experts):
        for key, model, seed in (("own", expert, place), ("base", base, 100 + place)):
            for stored, form in (("float32", lambda score: score), ("codes", rank_codes)):
                folder = tmp_path / stored / f"{expert.name}-{key}"
                kept = {name: form(score) for name, score in scores_of(seed).items()}
                data = {"name": "d", "rows": expert.name}
                write_scores(folder, model, kept, data=data, stored=stored)
    return made


def expert(model: Path, place: int, stored: str = "float32") -> dict[str, Any]:
    folder = model.parent / stored
    return {
        "model": str(model),
        "parameters": {"density": DENSITIES[place]},
        "scores": str(folder / f"{model.name}-own"),
        "base_scores": str(folder / f"{model.name}-base"),
    }


def whole(family: list[Path], stored: str = "float32", **fields: Any) -> dict[str, Any]:
    base, *experts = family
    models = [expert(model, place, stored) for place, model in enumerate(experts)]
    return {"merge_method": "led", "base_model": str(base), "models": models, **fields}


def sliced(given: dict[str, Any], *ranges: tuple[int, int], say: int | None = None) -> dict:
    """The same models in slices of these layers.

    Args:
        say: the only slice that tells where scores come from; None for all.
    """
    slices = []
    for number, layers in enumerate(ranges):
        sources = [{"model": given["base_model"]}] if "base_model" in given else []
        sources += [dict(entry) for entry in given["models"]]
        for source in sources:
            source["layer_range"] = [*layers]
            if say not in (None, number):
                for key in ("scores", "base_scores", "locate"):
                    source.pop(key, None)
        slices.append({"sources": sources})
    return {**{key: given[key] for key in given if key != "models"}, "slices": slices}


def check_alike(folder: Path, given: dict, other: dict) -> tuple[dict, dict]:
    """Both recipes give the same bits of every tensor; their records."""
    records = [ledmerge.merge(each, folder / name) for each, name in ((given, "a"), (other, "b"))]
    made, expected = read_all(folder / "b"), read_all(folder / "a")
    assert made.keys() == expected.keys()
    assert all(same(made[name], tensor) for name, tensor in expected.items())
    assert records[0]["digest"] == records[1]["digest"]
    return records[0], records[1]


@pytest.mark.parametrize(
    ("scope", "stored"), [("tensor", "float32"), ("layer", "float32"), ("tensor", "codes")]
)
def test_slices_of_all_layers_in_order_are_the_whole_models(
    family: list[Path], tmp_path: Path, scope: str, stored: str
):
    given = whole(family, stored, parameters={"scope": scope, "rescale": "norm"})
    # The second slice alone says where scores come from: once for each model is enough.
    one, other = check_alike(tmp_path, given, sliced(given, (0, 1), (1, 3), say=1))
    assert other["summary"]["owned"] == one["summary"]["owned"]
    again = yaml.safe_load(yaml.safe_dump(other["recipe"]))
    assert ledmerge.merge(again, tmp_path / "again") == other


def test_a_stack_takes_each_layers_scores_with_it(family: list[Path], tmp_path: Path):
    given = sliced(whole(family), (1, 3), (0, 2))
    given["slices"][1]["sources"].pop(1)  # code alone
    record = ledmerge.merge(given, tmp_path / "out")
    made = read_all(tmp_path / "out")
    tensors = [read_all(folder) for folder in family]
    origins = {  # name in the result -> (name in the models, the experts in that slice)
        EMBEDDING: (EMBEDDING, (0, 1)),
        layer(0): (layer(1), (0, 1)),
        layer(1): (layer(2), (0, 1)),
        layer(2): (layer(0), (1,)),
        layer(3): (layer(1), (1,)),
        NORM: (NORM, (1,)),
        HEAD: (HEAD, (1,)),
    }
    assert made.keys() == origins.keys()
    for name, (old, places) in origins.items():
        elected = [elect(place, old) for place in places]
        expected = tensors[0][old].clone()
        for place, mask in zip(places, elected, strict=True):
            mine = mask & (sum(each.int() for each in elected) == 1)
            expected += mine * (tensors[1 + place][old] - tensors[0][old])
        torch.testing.assert_close(made[name], expected, rtol=1e-6, atol=1e-6)
    assert record["summary"]["models"] == ["math", "code"]
    with (console := Console(width=120)).capture() as shown:
        console.print(merge_table(record))
    assert shown.get().count("by slice") == 2
    assert len(ledmerge.verify(tmp_path / "out", deep=True)["deep"]) == len(origins)


def elect(place: int, name: str) -> torch.Tensor:
    """The highest of both score sets of an expert, equal ones to the lower place, by sorting."""
    masks = []
    for seed in (place, 100 + place):
        scores = scores_of(seed)[name].flatten()
        mask = torch.zeros(len(scores), dtype=torch.bool)
        best = scores.argsort(descending=True, stable=True)
        mask[best[: int(DENSITIES[place] * len(scores))]] = True
        masks.append(mask.reshape(SHAPE))
    return masks[0] & masks[1]


def test_an_interrupted_stack_with_scores_is_taken_up(family: list[Path], tmp_path: Path):
    given = sliced(whole(family), (0, 2), (1, 3))
    expected = ledmerge.merge(given, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        ledmerge.merge(given, tmp_path / "out", threads=1, progress=stop_after(4))
    progress, heard = listen()
    assert ledmerge.merge(given, tmp_path / "out", resume=True, progress=progress) == expected
    started = [told for told in heard if isinstance(told, tuple) and told[0] == "merge by led"]
    assert [done for *_, done in started] == [3 * 6 * 8 * 4]  # three were whole


def test_a_plan_and_explain_count_the_scores_of_every_slice(family: list[Path], tmp_path: Path):
    given = sliced(whole(family), (0, 2), (1, 3))
    facts = ledmerge.plan(given).as_json(threads=1, out=tmp_path)
    assert facts["problems"] == []
    assert facts["score_bytes"] == 4 * facts["parameters"] * 4  # of two experts, at two places
    assert len(facts["scores"]) == 2  # each expert's are told once
    found = explain(given, layer(3))
    assert [model["options"]["density"] for model in found["models"][1:]] == [*DENSITIES]


def test_a_tensor_without_scores_stays_the_bases(family: list[Path], tmp_path: Path):
    base, math, _ = family
    some = {name: scores for name, scores in scores_of(0).items() if name != layer(1)}
    write_scores(tmp_path / "some", math, some, data={"name": "d", "rows": "math"})
    given = whole(family)
    given["models"][0]["scores"] = str(tmp_path / "some")
    given = sliced(given, (0, 2), (1, 3))
    found = ledmerge.plan(given)
    copied = {tensor.new.name: tensor.reason for tensor in found.tensors if tensor.reason}
    assert copied == dict.fromkeys((layer(1), layer(2)), "no scores for math")
    ledmerge.merge(given, tmp_path / "out")
    made, start = read_all(tmp_path / "out"), read_all(base)
    assert same(made[layer(2)], start[layer(1)])
    assert not same(made[layer(3)], start[layer(2)])


def test_scores_of_another_model_are_refused(family: list[Path], tmp_path: Path):
    given = sliced(whole(family), (0, 2), (1, 3))
    given["slices"][1]["sources"][2]["scores"] = given["slices"][1]["sources"][1]["scores"]
    with pytest.raises(RecipeError, match="scores of 'math', which has other weights than code"):
        ledmerge.merge(given, tmp_path / "out")


def test_a_slice_with_a_base_of_its_own_needs_scores_there(family: list[Path], tmp_path: Path):
    math = family[1]
    given = sliced(whole(family), (0, 2), (1, 3))
    del given["slices"][1]["sources"][:2]
    given["slices"][1]["base_model"] = str(math)
    given["slices"][1]["sources"].append({"model": str(math), "layer_range": [1, 3]})
    with pytest.raises(RecipeError, match="scores of 'base', which has other weights than math"):
        ledmerge.merge(given, tmp_path / "out")
    data = {"name": "d", "rows": "code"}
    there = write_scores(tmp_path / "there", math, scores_of(7), data=data)
    given["slices"][1]["sources"][0]["base_scores"] = str(there)
    ledmerge.merge(given, tmp_path / "out")
    made, start = read_all(tmp_path / "out"), read_all(math)
    changed = (made[layer(2)] != start[layer(1)]).sum() / made[layer(2)].numel()
    assert 0 < changed <= DENSITIES[1]


def test_a_guard_goes_with_slices_that_all_have_its_model(family: list[Path], tmp_path: Path):
    given = whole(family, merge_method="linear", guard={"density": 0.3, "keep": str(family[1])})
    given["guard"]["scores"] = str(family[1])
    for entry in given["models"]:
        del entry["base_scores"], entry["parameters"]
    del given["models"][1]["scores"], given["base_model"]
    given["parameters"] = {"weight": 0.5}
    _, record = check_alike(tmp_path, given, sliced(given, (0, 2), (2, 3)))
    assert record["recipe"]["guard"]["density"] == 0.3
    assert ledmerge.merge(record["recipe"], tmp_path / "again") == record
    without = sliced(given, (0, 2), (2, 3))
    del without["slices"][1]["sources"][0]
    with pytest.raises(RecipeError, match=r"guard.scores: "):
        ledmerge.merge(without, tmp_path / "out")


@pytest.mark.parametrize("method", ["led", "regmean"])
def test_located_sets_are_located_once_for_all_slices(
    model_folder, rows_file: Path, tmp_path: Path, fresh_cache, method: str
):
    models = [model_folder("llama_tied", seed) for seed in range(3)]
    parameters = {"density": 0.4} if method == "led" else {}
    entries = [{"model": str(m), "locate": {"data": str(rows_file)}} for m in models[1:]]
    given = {
        "merge_method": method,
        "models": entries,
        "parameters": parameters,
        "locate": {"samples": 2},
        "dtype": "float32",
    }
    if method == "led":
        given["base_model"] = str(models[0])
    stacked = sliced(given, (0, 1), (1, 2))
    facts = ledmerge.plan(stacked).as_json(1, tmp_path)
    assert facts["problems"] == []
    assert facts["locate_memory"] == ledmerge.plan(given).as_json(1, tmp_path)["locate_memory"]
    progress, heard = listen()
    record = ledmerge.merge(stacked, tmp_path / "sliced", progress=progress)
    located = [told[0] for told in heard if isinstance(told, tuple) and "locate" in told[0]]
    assert sorted(located) == [f"locate {m.name}" for m in models if m in models[method != "led" :]]
    heard.clear()
    assert ledmerge.merge(given, tmp_path / "whole")["digest"] == record["digest"]
    assert ledmerge.verify(tmp_path / "sliced", deep=True)["deep"]


def test_a_layer_shown_twice_has_its_gram_matrix_twice(
    model_folder, rows_file: Path, tmp_path: Path, fresh_cache
):
    models = [model_folder("llama", seed) for seed in range(2)]
    entries = [{"model": str(m), "locate": {"data": str(rows_file)}} for m in models]
    given = {"merge_method": "regmean", "models": entries, "locate": {"samples": 2}}
    ledmerge.merge({**given, "dtype": "float32"}, tmp_path / "whole")
    ledmerge.merge({**sliced(given, (0, 1), (0, 2)), "dtype": "float32"}, tmp_path / "out")
    made, expected = read_all(tmp_path / "out"), read_all(tmp_path / "whole")
    for name, tensor in made.items():
        old = name.replace("layers.1", "layers.0").replace("layers.2", "layers.1")
        assert same(tensor, expected[old]), name
