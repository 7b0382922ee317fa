"""Merges from recipe to folder: the right bytes, all files, nothing half done under the name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from families import (
    SHAPES,
    WHOLE_NUMBERS,
    base_tensors,
    expert_tensors,
    files_of,
    read_all,
    recipe,
    same,
    write_family,
    write_model,
)

import ledmerge
from ledmerge.checkpoint.header import read_header
from ledmerge.errors import RecipeError
from ledmerge.methods._catalog import get_method, method_names
from ledmerge.ops.random import draw_uniform
from ledmerge.recipe.recipe import load_recipe
from ledmerge.run import engine
from ledmerge.run.workers import Workers
from methods.harness import TAKES

CASES = {
    "linear": ("linear", {}, [{"weight": 0.3}, {"weight": 0.9}]),
    "linear, not normalized": ("linear", {"normalize": False}, [{"weight": 0.5}, {"weight": -0.7}]),
    "task_arithmetic": ("task_arithmetic", {"lambda": 0.5}, [{"weight": 0.7}, {"weight": 1.3}]),
    "ties": ("ties", {"normalize": True}, [{"density": 0.3}, {"density": 0.61, "weight": 2}]),
    "ties, rescaled": ("ties", {"density": 0.2, "rescale": True, "convention": "paper"}, None),
    "dare_linear": ("dare_linear", {"density": 0.4}, None),
    "dare_linear of the paper": ("dare_linear", {"density": 0.7, "convention": "paper"}, None),
    "dare_ties": ("dare_ties", {"density": 0.5, "normalize": True}, [{"weight": 0.5}, {}]),
    "slerp": ("slerp", {"t": 0.3}, None),
    "arcee_fusion": ("arcee_fusion", {}, None),
    "breadcrumbs": ("breadcrumbs", {"gamma": 0.1}, [{"density": 0.3}, {"density": 0.61}]),
    "breadcrumbs_ties": ("breadcrumbs_ties", {"density": 0.5, "rescale": True}, None),
    "cabs": ("cabs", {"density": 0.25, "group": 16}, [{"weight": 0.5}, {}]),
    "consensus": ("consensus", {"lambda": 0.5}, [{"tall": 0.3}, {"tall": 0.6}]),
    "della": ("della", {"density": 0.5, "epsilon": 0.2}, None),
    "della_linear": ("della_linear", {"density": 0.7}, [{"weight": 0.5}, {}]),
    "doge": ("doge", {"eta": 0.5}, [{"density": 0.5}, {}]),
    "iso_c": ("iso_c", {}, None),
    "iso_cts": ("iso_cts", {"common": 0.5}, None),
    "karcher": ("karcher", {}, None),
    "knots": ("knots", {"density": 0.5}, [{"weight": 0.5}, {}]),
    "lata": ("lata", {"threshold": 0.0, "scope": "tensor"}, None),
    "lore": ("lore", {"mu": 0.3, "steps": 3}, None),
    "model_stock": ("model_stock", {}, None),
    "multislerp": ("multislerp", {}, [{"weight": 0.3}, {"weight": 0.9}]),
    "nearswap": ("nearswap", {"t": 0.01}, None),
    "nuslerp": ("nuslerp", {}, [{"weight": 0.3}, {"weight": 0.9}]),
    "emr": ("emr", {}, None),
    "nuslerp, columns": ("nuslerp", {"nuslerp_flatten": False}, None),
    "opcm": ("opcm", {}, None),
    "passthrough": ("passthrough", {}, None),
    "pcb": ("pcb", {"density": 0.4}, [{"weight": 0.5}, {}]),
    "r_tsvm": ("r_tsvm", {"sigmas": 1}, None),
    "ram": ("ram", {}, None),
    "ramplus_tl": ("ramplus_tl", {"epsilon": 0.01}, None),
    "safe_lora": ("safe_lora", {"unaligned": "safety"}, None),
    "safemerge": ("safemerge", {"unaligned": "safety", "safe": "math"}, None),
    "scaled_arithmetic": ("scaled_arithmetic", {"scope": "tensor"}, [{"weight": 0.5}, {}]),
    "sce": ("sce", {"select_topk": 0.4}, None),
    "tsvm": ("tsvm", {"lambda": 0.7}, None),
    "widen": ("widen", {}, None),
    "wudi": ("wudi", {}, None),
}


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> list[Path]:
    return write_family(tmp_path_factory.mktemp("family"))


def num_experts(method: str) -> int:
    usual = 1 if get_method(method).inputs == "other" else 2
    return {**TAKES, "safemerge": 3}.get(method, usual)


def case_recipe(family: list[Path], case: str, **fields: object) -> dict:
    method, common, own = CASES[case]
    return recipe(
        method,
        family[0],
        *family[1 : 1 + num_experts(method)],
        own=own,
        parameters=common,
        **fields,
    )


def on_whole_tensors(given: dict) -> dict[str, torch.Tensor]:
    """What the method's function makes of whole tensors, cast once."""
    found = load_recipe(given)
    method, options, merged = found.method, found.options, dict(WHOLE_NUMBERS)
    base, *experts = (read_all(Path(path)) for path in (found.base, *found.models))
    for name in SHAPES:
        start = base[name].float()
        models = torch.stack([expert[name].float() for expert in experts])
        asked = {}
        if "random" in method.requests:
            asked["random"] = lambda like, name=name: draw_uniform(like, seed=found.seed, name=name)
        if method.may_have_base:
            asked["base"] = start
        if method.inputs == "models":
            result = method.function(models, **options, **asked)
        elif method.inputs == "other":
            result = method.function(start, models[0], **options, **asked)
        else:
            result = method.function(start, models - start, **options, **asked)
        merged[name] = result.to(getattr(torch, found.dtype) if found.dtype else base[name].dtype)
    return merged


def test_every_method_has_a_case():
    assert {method for method, _, _ in CASES.values()} == {
        name for name in method_names() if not get_method(name).scored_at
    }  # for the others see test_merge_led.py, test_merge_scores.py and test_merge_grams.py


@pytest.mark.parametrize("case", CASES)
def test_a_merge_is_the_method_on_whole_tensors_cast_once(family, tmp_path: Path, case: str):
    given = case_recipe(family, case, seed=3)
    expected = on_whole_tensors(given)
    for folder, how in (("one", {"threads": 1}), ("many", {"threads": 3, "shard_size": 1000})):
        ledmerge.merge(given, tmp_path / folder, **how)
        merged = read_all(tmp_path / folder)
        assert merged.keys() == expected.keys()
        assert [name for name in merged if not same(merged[name], expected[name])] == []
    one, many = (json.loads((tmp_path / f / "ledmerge.json").read_text()) for f in ("one", "many"))
    assert one == many


@pytest.mark.parametrize("name", ["multislerp", "nuslerp"])
def test_a_base_that_may_be_left_out_makes_task_vectors_where_it_is_given(
    family, tmp_path: Path, name: str
):
    tensors = [read_all(folder) for folder in family[:3]]
    for out, base in (("with", family[0]), ("without", None)):
        listed = [*([base] if base else []), *family[1:3]]  # as mergekit's recipes often do
        ledmerge.merge(recipe(name, base, *listed), tmp_path / out)
        merged = read_all(tmp_path / out)
        for key in SHAPES:
            start, *models = (tensor[key].float() for tensor in tensors)
            function = get_method(name).function
            expected = function(torch.stack(models), base=start if base else None)
            assert same(merged[key], expected.to(tensors[0][key].dtype)), (out, key)


def test_a_wrong_number_of_models_is_told_before_a_byte_is_read(family, tmp_path: Path):
    with pytest.raises(
        RecipeError, match="nuslerp: expected exactly 2 models besides the base, found 1"
    ):
        ledmerge.merge(recipe("nuslerp", *family[:2]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", ["dare_ties", "emr"])
def test_threads_change_no_byte_of_any_file(family, tmp_path: Path, monkeypatch, case: str):
    given, threads_of = case_recipe(family, case, dtype="bfloat16"), {"alone": 1, "workers": 3}
    begun, start = [], Workers.__init__
    monkeypatch.setattr(engine, "SHARED", 0)  # or a family this small would be merged by one
    monkeypatch.setattr(engine, "SINGLE", 100)
    monkeypatch.setattr(
        Workers, "__init__", lambda self, *a, **k: (begun.append(a[0]), start(self, *a, **k))[1]
    )
    for name, threads in threads_of.items():
        ledmerge.merge(given, tmp_path / name / "out", threads=threads, shard_size=100_000)
    assert begun == [3]
    assert files_of(tmp_path / "alone" / "out") == files_of(tmp_path / "workers" / "out")


def test_a_seed_changes_what_is_random(family, tmp_path: Path):
    digests = {
        ledmerge.merge(case_recipe(family, "dare_linear", seed=seed), tmp_path / name)["digest"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    }
    assert len(digests) == 2


@pytest.mark.parametrize("shard_size", [0, 1000, 160_000, 10**9])
def test_shards_hold_their_size_and_the_index_is_right(family, tmp_path: Path, shard_size: int):
    out = tmp_path / "out"
    ledmerge.merge(case_recipe(family, "linear"), out, shard_size=shard_size)
    shards = {path.name: read_header(path).entries for path in out.glob("*.safetensors")}
    for entries in shards.values():
        size = sum(entry.nbytes for entry in entries.values())
        assert size <= shard_size or len([e for e in entries.values() if e.nbytes]) == 1
    index = out / "model.safetensors.index.json"
    if len(shards) == 1:
        assert shards.keys() == {"model.safetensors"}
        assert not index.exists()
        return
    found = json.loads(index.read_text())
    assert found["weight_map"] == {name: file for file in shards for name in shards[file]}
    total = sum(entry.nbytes for entries in shards.values() for entry in entries.values())
    assert found["metadata"] == {"total_size": total}


def test_the_folder_holds_exactly_a_complete_model(tmp_path: Path):
    base, safety, math, _ = write_family(tmp_path)
    beside = {
        "tokenizer.json": "{}",
        "chat_template.jinja": "{{ bos_token }}",
        "generation_config.json": '{"do_sample": false}',
        "extra/deep/notes.txt": "n",
    }
    ours = {".gitattributes": "x", "README.md": "x", "pytorch_model-9.bin": "x", "x.gguf": "x"}
    for name, text in {**beside, **ours}.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text(text)
    (math / "only-in-math.txt").write_text("x")
    before = {folder: files_of(folder) for folder in (base, safety, math)}

    out = tmp_path / "out"
    record = ledmerge.merge(recipe("linear", base, safety, math, dtype="float16"), out)

    found = files_of(out)
    made = {"README.md", "config.json", "ledmerge.json", "model.safetensors"}
    assert found.keys() == beside.keys() | made
    assert {name: found[name].decode() for name in beside} == beside
    assert json.loads(found["config.json"])["torch_dtype"] == "float16"
    assert json.loads(found["ledmerge.json"]) == record
    assert b"from the base `base` and\n\n- safety\n- math\n" in found["README.md"]
    assert {folder: files_of(folder) for folder in before} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "code", "math", "out", "safety"]


def test_the_dtype_is_the_recipes_or_each_tensors_own(family, tmp_path: Path):
    ledmerge.merge(case_recipe(family, "linear"), tmp_path / "own")
    ledmerge.merge(case_recipe(family, "linear", dtype="float16"), tmp_path / "half")
    own, half = read_all(tmp_path / "own"), read_all(tmp_path / "half")
    for name, (_, dtype) in SHAPES.items():
        assert (own[name].dtype, half[name].dtype) == (dtype, torch.float16)
    for name, tensor in WHOLE_NUMBERS.items():
        assert same(own[name], tensor)
        assert same(half[name], tensor)
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"


def test_the_record_is_a_recipe_of_the_same_bytes(family, tmp_path: Path):
    given = case_recipe(family, "ties", dtype="bfloat16", seed=9)
    first = ledmerge.merge(given, tmp_path / "first")
    second = ledmerge.merge(first["recipe"], tmp_path / "second")
    assert first["digest"] == second["digest"]
    assert first["recipe"] == second["recipe"]
    assert first["recipe"]["parameters"]["normalize"] is True
    assert [model["parameters"]["density"] for model in first["recipe"]["models"]] == [0.3, 0.61]
    assert set(first["versions"]) >= {"ledmerge", "torch", "python"}
    assert first["tensors"].keys() == {*SHAPES, *WHOLE_NUMBERS}
    assert first["tensors"]["model.ids"]["reason"] == "holds integers"


def test_pickled_inputs_merge_like_any_other(family, tmp_path: Path):
    pickled = tmp_path / "pickled"
    write_model(pickled, {}).joinpath("model.safetensors").unlink()
    torch.save(expert_tensors(1), pickled / "pytorch_model.bin")
    plain = recipe("task_arithmetic", family[0], family[1])
    other = recipe("task_arithmetic", family[0], pickled)
    digests = [
        ledmerge.merge(given, tmp_path / name)["digest"]
        for name, given in (("a", plain), ("b", other))
    ]
    assert digests[0] == digests[1]


def test_equal_models_give_the_base_bit_for_bit(family, tmp_path: Path):
    equal = [shutil.copytree(family[0], tmp_path / "equal" / model.name) for model in family]
    for case in CASES.keys() - {"linear, not normalized"}:
        ledmerge.merge(case_recipe(equal, case), tmp_path / case)
        merged, base = read_all(tmp_path / case), base_tensors()
        assert [name for name in base if not same(merged[name], base[name])] == [], case


@pytest.mark.parametrize("kind", ["llama", "llama_tied"])
def test_the_output_of_every_method_loads_and_generates(model_folder, tmp_path: Path, kind: str):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = ("base", "safety", "math", "code")
    folders = [
        shutil.copytree(model_folder(kind, seed), tmp_path / name)
        for seed, name in enumerate(names)
    ]
    cases = {method: case for case, (method, _, _) in reversed(CASES.items())}
    # How tied weights are written is the engine's affair, the same for every method.
    for name in cases if kind == "llama" else ("linear", "ties"):
        given = case_recipe(folders, cases[name], dtype="float32")
        ledmerge.merge(given, tmp_path / name)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        prompt = AutoTokenizer.from_pretrained(tmp_path / name)("hello", return_tensors="pt")
        tokens = model.generate(**prompt, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        assert tokens.shape == (1, prompt["input_ids"].shape[1] + 3)
        merged = read_all(tmp_path / name)
        assert ("lm_head.weight" in merged) == (kind == "llama")
        for key, tensor in merged.items():
            assert same(model.state_dict()[key], tensor)


def test_a_merge_finds_the_relations_that_diff_finds(family, tmp_path: Path):
    draw = torch.Generator().manual_seed(9)
    strange = {
        name: torch.randn(tensor.shape, generator=draw) if tensor.is_floating_point() else tensor
        for name, tensor in base_tensors().items()
    }
    stranger = write_model(tmp_path / "stranger", strange)
    for method, first in (("ties", family[0]), ("linear", family[1]), ("slerp", family[0])):
        others = [stranger] if method == "slerp" else [family[2], stranger]
        models = [first, *others] if method == "linear" else others
        base = None if method == "linear" else first
        options = {"t": 0.5} if method == "slerp" else {}
        given = recipe(method, base, *models, parameters=options, dtype="float32")
        summary = ledmerge.merge(given, tmp_path / method)["summary"]
        verdicts = ["one base", "no common base"][-len(others) :]
        assert [each["verdict"] for each in summary["relations"]] == verdicts
        for each, other in zip(summary["relations"], others, strict=True):
            found = ledmerge.diff(first, other)
            assert (each["model"], each["to"]) == (other.name, first.name)
            assert each["cosine"] == pytest.approx(found["cosine"], abs=1 / 256)
        (warning,) = summary["warnings"]
        assert warning.startswith(f"stranger and {first.name} share no base")
