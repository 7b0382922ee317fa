"""Methods that ask for Gram matrices: located, checked and read beside the weights."""

from pathlib import Path

import peft_adapters as by
import pytest
import torch
import yaml
from families import listen, read_all, recipe, same, stop_after
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import ledmerge
from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.errors import NonFiniteError, RecipeError
from ledmerge.methods._catalog import get_method, method_names
from ledmerge.recipe.recipe import load_recipe
from ledmerge.recipe.settings import LocateSettings
from ledmerge.run.locate import locate
from ledmerge.run.planned import IDLE_MEMORY

CASES = {
    "aim": ({"omega": 0.2, "lambda": 0.7}, [{"weight": 0.5}, {}]),
    "esm": ({"lambda": 0.7}, None),
    "regmean": ({"off_diagonal": 0.5}, [{"weight": 0.5}, {}]),
}
QUERY = "model.layers.0.self_attn.q_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(autouse=True)
def empty_cache(fresh_cache):
    """Nothing is located yet."""


def data_recipe(model_folder, rows_file: Path, method: str, **fields: object) -> dict:
    base, *experts = (model_folder("llama_tied", seed) for seed in range(3))
    common, own = CASES[method]
    given = recipe(
        method,
        None if method == "regmean" else base,
        *experts,
        own=own,
        parameters=common,
        locate={"samples": 3},
        dtype="float32",
        **fields,
    )
    for entry in given["models"]:
        entry["locate"] = {"data": str(rows_file)}
    return given


def test_every_such_method_has_a_case():
    assert CASES.keys() == {name for name in method_names() if get_method(name).needs_grams}


@pytest.mark.parametrize("name", CASES)
def test_a_merge_locates_what_is_missing_and_is_the_method_on_whole_tensors(
    model_folder, rows_file: Path, tmp_path: Path, name: str
):
    given = data_recipe(model_folder, rows_file, name)
    progress, heard = listen()
    record = ledmerge.merge(given, tmp_path / "out", threads=2, progress=progress)
    located = [start[0] for start in heard if isinstance(start, tuple) and "locate" in start[0]]
    # Both models name the same data, so the base is run on them once.
    at = ["llama_tied-0"] if name == "aim" else ["llama_tied-1", "llama_tied-2"]
    assert located == [f"locate {model}" for model in at]

    found = load_recipe(given)
    base, *experts = (read_all(model_folder("llama_tied", seed)) for seed in range(3))
    grams = []
    for place, model in enumerate([0, 0] if name == "aim" else [1, 2]):
        folder = tmp_path / f"grams-{place}"
        settings = found.sources[place].settings
        locate(model_folder("llama_tied", model), folder, rows_file, settings=settings)
        grams.append(read_all(folder))
    assert EMBEDDING not in grams[0]
    merged = read_all(tmp_path / "out")
    for tensor, start in base.items():
        stack = torch.stack([expert[tensor] for expert in experts])
        inputs = [stack] if name == "regmean" else [start, stack - start]
        asked = {}
        if tensor in grams[0]:
            asked["base_grams" if name == "aim" else "grams"] = torch.stack(
                [each[tensor] for each in grams]
            )
        whole = found.method.function(*inputs, **found.options, **asked)
        assert same(merged[tensor], whole), tensor

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, min_new_tokens=3)
    assert tokens.shape == (1, 5)
    assert record["recipe"]["models"][0]["locate"]["score"] == "gram"
    again = ledmerge.merge(record["recipe"], tmp_path / "again")
    assert again["digest"] == record["digest"]
    assert ledmerge.verify(tmp_path / "out", deep=True)["deep"]


def test_an_interrupted_merge_goes_on(model_folder, rows_file: Path, tmp_path: Path):
    given = data_recipe(model_folder, rows_file, "regmean")
    whole = ledmerge.merge(given, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        ledmerge.merge(given, tmp_path / "out", threads=1, progress=stop_after(6))
    assert ledmerge.merge(given, tmp_path / "out", resume=True)["digest"] == whole["digest"]


def test_inputs_of_weights_with_grams_are_in_the_record(
    model_folder, rows_file: Path, tmp_path: Path
):
    record = ledmerge.merge(data_recipe(model_folder, rows_file, "esm"), tmp_path / "out")
    labels = [source["model"] for source in record["inputs"]]
    assert labels == [
        *("llama_tied-0", "llama_tied-1", "llama_tied-2"),
        *("the Gram matrices of llama_tied-1", "the Gram matrices of llama_tied-2"),
    ]
    assert len(record["tensors"][QUERY]["inputs"]) == 5
    assert len(record["tensors"][EMBEDDING]["inputs"]) == 3


def test_a_plan_counts_gram_matrices(model_folder, rows_file: Path, tmp_path: Path):
    found = ledmerge.plan(data_recipe(model_folder, rows_file, "regmean"))
    assert found.problems == []
    facts = found.as_json(1, tmp_path)
    assert facts["scores"][0].startswith(f"gram on 3 rows of {rows_file}, at the model, unless")
    entries = 2 * (6 * 16**2 + 24**2)  # all projections of a layer have 16 inputs but the last
    assert facts["score_bytes"] == 2 * 4 * entries
    assert facts["locate_memory"] == IDLE_MEMORY + 4 * facts["parameters"] + 4 * entries
    at_base = ledmerge.plan(data_recipe(model_folder, rows_file, "aim")).as_json(1, tmp_path)
    assert "at the base, unless" in at_base["scores"][0]


def named_grams(model_folder, rows_file: Path, tmp_path: Path, score: str = "gram") -> dict:
    """An ESM recipe with folders of Gram matrices, or of something else."""
    given = data_recipe(model_folder, rows_file, "esm")
    for seed, entry in enumerate(given["models"], start=1):
        del entry["locate"]
        settings = LocateSettings(samples=3, score=score)
        locate(
            model_folder("llama_tied", seed), tmp_path / f"s{seed}", rows_file, settings=settings
        )
        entry["scores"] = str(tmp_path / f"s{seed}")
    return given


def rewrite(folder: Path, change) -> None:
    """Change the tensors of a score folder; its `scores.json` stays."""
    tensors = dict(read_all(folder))
    metadata = open_checkpoint(folder, stem="scores").metadata
    change(tensors)
    save_file(tensors, folder / "scores.safetensors", metadata=metadata)


def test_gram_folders_may_be_named(model_folder, rows_file: Path, tmp_path: Path):
    record = ledmerge.merge(named_grams(model_folder, rows_file, tmp_path), tmp_path / "named")
    located = ledmerge.merge(data_recipe(model_folder, rows_file, "esm"), tmp_path / "located")
    assert record["digest"] == located["digest"]


def test_base_gram_folders_are_written_out_as_such(model_folder, rows_file: Path, tmp_path: Path):
    given = data_recipe(model_folder, rows_file, "aim")
    settings = LocateSettings(samples=3, score="gram")
    locate(model_folder("llama_tied", 0), tmp_path / "s0", rows_file, settings=settings)
    for entry in given["models"]:
        del entry["locate"]
        entry["base_scores"] = str(tmp_path / "s0")
    record = ledmerge.merge(given, tmp_path / "named")
    assert record["recipe"]["models"][0]["base_scores"] == str(tmp_path / "s0")
    assert ledmerge.merge(record["recipe"], tmp_path / "again")["digest"] == record["digest"]


def test_options_may_differ_between_tensors(model_folder, rows_file: Path, tmp_path: Path):
    given = data_recipe(model_folder, rows_file, "aim")
    given["parameters"]["omega"] = [{"filter": "q_proj", "value": 1.0}, {"value": 0.2}]
    ledmerge.merge(given, tmp_path / "varied")
    varied = read_all(tmp_path / "varied")
    for omega in (1.0, 0.2):
        given["parameters"]["omega"] = omega
        ledmerge.merge(given, tmp_path / f"{omega}")
        for name, tensor in read_all(tmp_path / f"{omega}").items():
            if ("q_proj" in name) == (omega == 1.0):
                assert same(varied[name], tensor), name
    assert not same(varied[QUERY], read_all(tmp_path / "0.2")[QUERY])


def test_adapters_have_gram_matrices(model_folder, rows_file: Path, tmp_path: Path):
    base, given = model_folder("llama_tied", 0), data_recipe(model_folder, rows_file, "regmean")
    digests = []
    adapters = [by.write_adapter(tmp_path / f"a{seed}", base, seed=seed) for seed in (1, 2)]
    for entry, adapter in zip(given["models"], adapters, strict=True):
        entry["model"] = f"{base}+{adapter}"
        ledmerge.apply(adapter, tmp_path / f"m-{adapter.name}", base=base)
    digests.append(ledmerge.merge(given, tmp_path / "adapted")["digest"])
    for entry, adapter in zip(given["models"], adapters, strict=True):
        entry["model"] = str(tmp_path / f"m-{adapter.name}")
    digests.append(ledmerge.merge(given, tmp_path / "applied")["digest"])
    assert digests[0] == digests[1]


def keep_only_output_projections(tensors):
    """Square weights, whose scores have the shape of a Gram matrix."""
    for name in [name for name in tensors if "o_proj" not in name]:
        del tensors[name]


def test_sets_of_another_rule_are_refused_even_where_the_shapes_agree(
    model_folder, rows_file: Path, tmp_path: Path
):
    given = named_grams(model_folder, rows_file, tmp_path, score="snip")
    for seed in (1, 2):
        rewrite(tmp_path / f"s{seed}", keep_only_output_projections)
    with pytest.raises(RecipeError, match="made by the rule snip; esm needs the rule gram"):
        ledmerge.merge(given, tmp_path / "out")


def test_grams_are_no_scores(model_folder, rows_file: Path, tmp_path: Path):
    given = named_grams(model_folder, rows_file, tmp_path)
    given |= {"merge_method": "obim", "parameters": {"density": 0.5}}
    for seed in (1, 2):  # so that no shape tells
        rewrite(tmp_path / f"s{seed}", keep_only_output_projections)
    with pytest.raises(RecipeError, match="made by the rule gram; obim needs another rule"):
        ledmerge.merge(given, tmp_path / "out")


def test_a_gram_of_another_shape_or_missing_in_one_set_is_a_problem(
    model_folder, rows_file: Path, tmp_path: Path
):
    given = named_grams(model_folder, rows_file, tmp_path)
    rewrite(tmp_path / "s1", lambda tensors: tensors.update({QUERY: torch.zeros(15, 15)}))
    rewrite(tmp_path / "s2", lambda tensors: tensors.pop(QUERY))
    lacks, misfits = ledmerge.plan(given).problems
    assert lacks == (
        f"{tmp_path / 's2'}: lacks the Gram matrix of '{QUERY}', which {tmp_path / 's1'} has; "
        "locate both alike"
    )
    assert misfits.startswith(f"{tmp_path / 's1'}: the Gram matrix of '{QUERY}' is F32 (15, 15), ")


def test_a_gram_that_is_not_finite_is_named(model_folder, rows_file: Path, tmp_path: Path):
    given = named_grams(model_folder, rows_file, tmp_path)
    rewrite(tmp_path / "s2", lambda tensors: tensors[QUERY].fill_(float("nan")))
    with pytest.raises(NonFiniteError, match=f"'{QUERY}' in the Gram matrices of llama_tied-2"):
        ledmerge.merge(given, tmp_path / "out")


REFUSED = {
    "another rule": (
        {"locate": {"score": "snip"}},
        "models[0].locate.score: found snip, and regmean needs gram; leave it out",
    ),
    "a guard": (
        {"guard": {"scores": "llama_tied-1", "density": 0.1, "keep": "llama_tied-1"}},
        "guard: reads scores of entries, and regmean Gram matrices; a model has one kind. Guard "
        "the result in a recipe of its own: linear of it at weight 1 and of 'llama_tied-1' at",
    ),
}


def test_the_result_is_guarded_in_a_recipe_of_its_own(
    model_folder, rows_file: Path, tmp_path: Path
):
    first = data_recipe(model_folder, rows_file, "regmean", name="merged")
    first["dtype"] = "bfloat16"
    ledmerge.merge({**first, "name": None}, tmp_path / "plain")
    safety = {"model": first["models"][0]["model"], "parameters": {"weight": 0}}
    safety["locate"] = {"data": str(rows_file), "samples": 2}
    second = {"merge_method": "linear", "models": [{"model": "merged"}, safety]}
    second["guard"] = {"scores": "llama_tied-1", "density": 0.2, "keep": "llama_tied-1"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump_all([first, second]))
    ledmerge.merge(path, tmp_path / "guarded")
    plain, guarded = read_all(tmp_path / "plain"), read_all(tmp_path / "guarded")
    kept = read_all(Path(safety["model"]))
    for name, weight in guarded.items():
        is_kept = weight != plain[name]
        assert torch.equal(weight[is_kept], kept[name].bfloat16()[is_kept])
        assert 0 < is_kept.sum() <= int(0.2 * weight.numel())


@pytest.mark.parametrize("what", REFUSED)
def test_recipes_that_cannot_be(model_folder, rows_file: Path, what: str):
    fields, said = REFUSED[what]
    with pytest.raises(RecipeError) as caught:
        load_recipe({**data_recipe(model_folder, rows_file, "regmean"), **fields})
    assert said in str(caught.value)


def test_a_recipe_without_data_says_how_to_get_grams(model_folder, rows_file: Path):
    given = data_recipe(model_folder, rows_file, "aim")
    given["models"][0] = {"model": given["models"][0]["model"], "scores": "s"}
    with pytest.raises(RecipeError) as caught:
        load_recipe(given)
    assert str(caught.value).endswith(
        "models[0]: aim needs Gram matrices; give 'locate: {data: FILE}', or 'base_scores' made by "
        "`ledmerge locate --score gram`"
    )


def test_gram_is_refused_where_entries_are_scored(model_folder, rows_file: Path):
    given = data_recipe(model_folder, rows_file, "esm")
    given |= {"merge_method": "obim", "parameters": {"density": 0.5}}
    given["locate"] = {"score": "gram"}
    with pytest.raises(RecipeError, match="found gram, and obim needs a rule that scores entries"):
        load_recipe(given)
