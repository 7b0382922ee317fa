"""Plans: every check from headers alone, every problem in one go."""

import json
import os
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from families import (
    SHAPES,
    base_tensors,
    expert_tensors,
    read_all,
    recipe,
    stop_after,
    write_family,
    write_model,
)
from typer.testing import CliRunner

import ledmerge
from ledmerge.checkpoint.checkpoint import Checkpoint
from ledmerge.cli.app import app
from ledmerge.errors import CheckpointError, RecipeError
from ledmerge.models.quantized import MEND
from ledmerge.run import planned as module
from ledmerge.run.explain import explain
from ledmerge.run.pieces import piece_on
from ledmerge.run.plan import check_memory, check_space, default_threads, plan

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def plan_of(tmp_path: Path):
    """Plans a merge of a base and one expert, given as (tensors, config)."""

    def run(base, expert, method="linear", base_config=None, expert_config=None, **fields):
        folders = (
            write_model(tmp_path / "base", base, **(base_config or {})),
            write_model(tmp_path / "math", expert, **(expert_config or {})),
        )
        return plan(recipe(method, *folders, **fields))

    return run


def w(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.zeros(shape).to(dtype)


def test_options_are_told_as_a_recipe_has_them(tmp_path: Path):
    base, safety, math, _ = write_family(tmp_path)
    given = recipe("cabs", base, safety, math)
    given["parameters"] = {"priority": ["math"], "density": 0.25}
    options = {"group": 128.0, "priority": [str(math)]}
    told = plan(given).as_json(threads=1, out=tmp_path / "out")["options"]
    assert told == {**options, "weight": [1.0, 1.0], "density": [0.25, 0.25]}
    assert explain(given, EMBEDDING)["options"] == options
    facts = plan(recipe("ties", base, safety, math)).as_json(threads=1, out=tmp_path / "out")
    assert facts["options"]["lambda"] == 1.0


def test_a_plan_reads_no_weight(tmp_path: Path, monkeypatch):
    base, safety, math, _ = write_family(tmp_path)

    def fail(*_: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Checkpoint, "read_into", fail)
    found = plan(recipe("ties", base, safety, math))
    assert found.problems == []
    facts = found.as_json(threads=2, out=tmp_path / "out")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["tensors"]["merged"] == len(SHAPES)
    assert facts["tensors"]["copied"] == dict.fromkeys(
        ["model.ids", "model.mask"], "holds integers"
    )
    floats = [
        (tensor, expert_tensors(2, torch.float32)[name]) for name, tensor in base_tensors().items()
    ]
    sizes = [(2 * a.nbytes + b.nbytes if a.is_floating_point() else a.nbytes) for a, b in floats]
    assert facts["bytes_in"] == sum(sizes)
    assert facts["bytes_out"] == sum(a.nbytes for a, _ in floats)
    assert facts["parameters"] == sum(a.numel() for a, _ in floats)
    assert facts["peak_memory"] > 0 < facts["disk_free"]
    assert not (tmp_path / "out").exists()


def test_a_model_of_40_gigabytes_is_planned_from_its_header(tmp_path: Path):
    fields = {EMBEDDING: {"dtype": "BF16", "shape": [20, 10**9], "data_offsets": [0, 4 * 10**10]}}
    text = json.dumps(fields).encode()
    for name in ("base", "math"):
        folder = write_model(tmp_path / name, {})
        (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(folder / "model.safetensors", 8 + len(text) + 4 * 10**10)  # sparse
    found = plan(recipe("linear", None, tmp_path / "base", tmp_path / "math"))
    assert (found.bytes_in, found.bytes_out) == (8 * 10**10, 4 * 10**10)


MISFITS = {
    "shapes": (
        {"w": w(2, 3)},
        {"w": w(3, 2)},
        "'w' is (3, 2) in math but (2, 3) in base",
    ),
    "vocabularies": (
        {EMBEDDING: w(8, 2)},
        {EMBEDDING: w(9, 2)},
        f"'{EMBEDDING}' is (9, 2) in math but (8, 2) in base; the vocabularies differ, say which "
        "one the result is to have: `tokenizer: {source: base}`, or union, or a model",
    ),
    "a tensor missing": ({"w": w(2), "v": w(2)}, {"w": w(2)}, "'v' is in base but not in math"),
    "a tensor too many": ({"w": w(2)}, {"w": w(2), "v": w(2)}, "'v' is in math but not in base"),
    "layers missing": (
        {f"h.{i}.{part}": w(2) for i in range(4) for part in "qkv"},
        {f"h.{i}.{part}": w(2) for i in range(3) for part in "qkv"},
        "'h' has 4 layers in base but 3 in math; whole models need equal layers, so take another "
        "model, or say by `slices` which layers are merged",
    ),
    "layers too many": (
        {"h.0.q": w(2), "h.0.k": w(2)},
        {f"h.{i}.{part}": w(2) for i in range(40) for part in "qk"},
        "'h' has 40 layers in math but 1 in base; whole models need equal layers, so take another "
        "model, or say by `slices` which layers are merged",
    ),
    "a stack missing": (
        {},
        {f"h.{i}.{part}": w(2) for i in range(40) for part in "qk"},
        "'h' has 40 layers in math but none in base; whole models need equal layers, so take "
        "another model, or say by `slices` which layers are merged",
    ),
    "a tensor of a layer missing": (
        {"h.0.q": w(2), "h.0.k": w(2), "h.1.q": w(2), "h.1.k": w(2)},
        {"h.0.q": w(2), "h.1.q": w(2), "h.1.k": w(2)},
        "'h.0.k' is in base but not in math",
    ),
    "integers against floats": (
        {"w": w(2)},
        {"w": w(2, dtype=torch.int64)},
        "'w' is I64 in math but F32 in base",
    ),
    "float8": (
        {"w": w(2, dtype=torch.float8_e4m3fn)},
        {"w": w(2)},
        f"base is quantized ('w' holds F8_E4M3); {MEND}",
    ),
    "integers of other shapes": (
        {"w": w(2), "ids": w(2, dtype=torch.int64)},
        {"w": w(2), "ids": w(3, dtype=torch.int64)},
        "'ids' is I64 (3,) in math but I64 (2,) in base; integers must agree",
    ),
    "packed integers": (
        {"w": w(2)},
        {"w": w(2), "q.weight": w(2, 2, dtype=torch.int8)},
        f"math is quantized ('q.weight' holds I8); {MEND}",
    ),
    "float8 in an expert": (
        {"w": w(2)},
        {"w": w(2, dtype=torch.float8_e5m2)},
        f"math is quantized ('w' holds F8_E5M2); {MEND}",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_tensors_that_do_not_fit_are_named(plan_of, misfit: str):
    base, expert, said = MISFITS[misfit]
    found = plan_of({"x": w(1), **base}, {"x": w(1), **expert})
    assert found.problems == [said]


def test_mixed_float_dtypes_fit(plan_of):
    found = plan_of({"w": w(2, dtype=torch.bfloat16)}, {"w": w(2, dtype=torch.float64)})
    assert found.problems == []
    assert [tensor.new.dtype for tensor in found.tensors] == ["BF16"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architectures": ["Qwen2ForCausalLM"]}, "math has architectures"),
        ({"quantization_config": {"bits": 4}}, "math is quantized"),
    ],
)
def test_configs_that_do_not_fit_are_told(plan_of, config: dict, said: str):
    (problem,) = plan_of({"w": w(2)}, {"w": w(2)}, expert_config=config).problems
    assert problem.startswith(said)


def test_tokenizers_that_disagree_are_told(tmp_path: Path):
    for name, tokens in (("base", "ab"), ("math", "ba")):
        folder = write_model(tmp_path / name, {"w": w(2)})
        vocabulary = {token: place for place, token in enumerate(tokens)}
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    (problem,) = plan(recipe("linear", tmp_path / "base", tmp_path / "math")).problems
    assert problem.startswith("2 tokens differ between the tokenizers of math and base")


TIED = {"tie_word_embeddings": True}


def test_a_repeated_embedding_is_left_out_where_the_config_ties_it(plan_of):
    both = {EMBEDDING: w(8, 2), "lm_head.weight": w(8, 2), "w": w(2)}
    found = plan_of(both, both, base_config=TIED, expert_config=TIED)
    assert found.problems == []
    assert found.left_out == {
        "lm_head.weight": "repeats the input embedding (tied); the config says so"
    }
    assert plan_of(both, both).left_out == {}


def test_an_expert_may_repeat_an_embedding_that_the_base_does_not(plan_of):
    both = {EMBEDDING: w(8, 2), "lm_head.weight": w(8, 2)}
    found = plan_of({EMBEDDING: w(8, 2)}, both, base_config=TIED, expert_config=TIED)
    assert (found.problems, list(found.left_out)) == ([], ["lm_head.weight"])


HEAD = "lm_head.weight"


@pytest.mark.parametrize("base_has_both", [True, False])
@pytest.mark.parametrize("repeats", [True, False])
def test_an_output_embedding_of_its_own_is_never_lost(tmp_path, base_has_both, repeats):
    """Where one model has it, the input embedding stands for it in those that have none."""
    both = {EMBEDDING: torch.rand(8, 2), HEAD: torch.rand(8, 2)}
    tied = {EMBEDDING: torch.rand(8, 2)}
    if repeats:
        tied[HEAD] = tied[EMBEDDING].clone()
    folders = [
        write_model(tmp_path / "both", both),
        write_model(tmp_path / "tied", tied, **TIED, text_config=TIED),
    ]
    base, expert = folders if base_has_both else folders[::-1]
    given = recipe("linear", base, base, expert, own=[{"weight": 1}, {"weight": 3}])
    found = plan(given)
    (note,) = found.notes
    assert note.startswith("tied: the output embedding is the input embedding, but not in all")
    ledmerge.merge(given, tmp_path / "out")
    made = read_all(tmp_path / "out")
    shares = (0.25, 0.75) if base_has_both else (0.75, 0.25)
    expected = {name: shares[0] * both[name] + shares[1] * tied[EMBEDDING] for name in both}
    assert made.keys() == expected.keys()
    assert all(torch.allclose(made[name], tensor) for name, tensor in expected.items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    if not base_has_both:
        assert (
            config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is False
        )


def test_without_a_word_of_ties_a_missing_output_embedding_is_a_problem(plan_of):
    both = {EMBEDDING: w(8, 2), HEAD: w(8, 2)}
    (problem,) = plan_of({EMBEDDING: w(8, 2)}, both).problems
    assert problem == "'lm_head.weight' is in math but not in base"


def test_a_lone_output_embedding_is_merged_even_where_tied(plan_of):
    found = plan_of({"lm_head.weight": w(8, 2)}, {"lm_head.weight": w(8, 2)}, base_config=TIED)
    assert (found.left_out, len(found.tensors)) == ({}, 1)


def test_buffers_that_every_loader_computes_are_left_out(plan_of):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    assert plan_of({"w": w(2), name: w(4)}, {"w": w(2)}).left_out.keys() == {name}
    assert plan_of({"w": w(2)}, {"w": w(2), name: w(4)}).left_out.keys() == {name}


def test_nothing_to_merge_is_a_problem(plan_of):
    whole = {"ids": torch.arange(3)}
    assert plan_of(whole, whole).problems == [
        "nothing to merge: no floating-point tensor is in all models"
    ]


def test_without_a_base_the_first_model_gives_the_rest(tmp_path: Path):
    base, safety, *_ = write_family(tmp_path)
    found = plan(recipe("linear", None, safety, base))
    assert found.donor.path == safety
    assert found.notes == ["no 'base_model' in the recipe: config and tokenizer come from safety"]
    told = found.as_json(1, tmp_path / "out")
    assert (told["base"], told["donor"]) == (None, str(safety))
    assert told["dtypes"] == sorted({tensor.new.dtype for tensor in found.tensors})
    based = plan(recipe("ties", base, safety, base)).as_json(1, tmp_path / "out")
    assert based["base"] == based["donor"] == str(base)


def test_every_problem_is_told_in_one_go(tmp_path: Path):
    write_model(tmp_path / "base", {"w": w(2, 3), "v": w(2), EMBEDDING: w(8, 2)})
    write_model(tmp_path / "a", {"w": w(3, 2), EMBEDDING: w(9, 2)}, model_type="qwen2")
    write_model(tmp_path / "b", {"w": w(2, 3), "v": w(2), EMBEDDING: w(8, 2), "y": w(1), "x": w(1)})
    given = recipe("linear", *(tmp_path / name for name in ("base", "a", "b")))
    found = plan(given)
    check_memory(found, 1000, 2)
    expected = [
        "a has model_type qwen2 but base has llama",
        "'v' is in base but not in a",
        f"'{EMBEDDING}' is (9, 2) in a but (8, 2) in base",
        "'w' is (3, 2) in a but (2, 3) in base",
        "'x' is in b but not in base",
        "'y' is in b but not in base",
        "--memory 1,000 bytes is too small: 2 threads need",
    ]
    for said in expected:
        assert any(problem.startswith(said) for problem in found.problems), said
    assert len(found.problems) == len(expected)
    assert found.problems.index(expected[4]) < found.problems.index(expected[5])  # in order
    with pytest.raises(RecipeError) as caught:
        ledmerge.merge(given, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(expected) - 1
    assert all(line.startswith("recipe: ") for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "base"]


def test_models_that_cannot_be_opened_are_all_named(tmp_path: Path):
    base = write_model(tmp_path / "base", {"w": w(2)})
    cut = write_model(tmp_path / "cut", {"w": w(2)})
    os.truncate(cut / "model.safetensors", 20)
    with pytest.raises(CheckpointError) as caught:
        plan(recipe("linear", base, cut, tmp_path / "none"))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{cut}/model.safetensors: ")
    assert second.startswith(f"{tmp_path}/none: no such folder")


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_is_too_small_is_told_before_the_first_byte(tmp_path: Path, monkeypatch):
    base, safety, *_ = write_family(tmp_path)
    given = recipe("linear", base, safety)
    found = plan(given)
    for free, problems in ((found.bytes_out, 0), (found.bytes_out - 1, 1)):
        monkeypatch.setattr(module.shutil, "disk_usage", lambda place, free=free: Usage(0, 0, free))
        found.problems.clear()
        check_space(found, tmp_path / "not" / "there" / "out")
        assert len(found.problems) == problems
    with pytest.raises(
        RecipeError, match=r"out: the result needs .* bytes, .* are free; make room"
    ):
        ledmerge.merge(given, tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))


def test_there_is_a_worker_for_each_core_that_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 20)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(12))
    assert (default_threads(), default_threads("cuda")) == (12, 8)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert default_threads() == 20


def test_a_plan_for_a_gpu_counts_its_larger_pieces_and_fewer_workers(tmp_path: Path, monkeypatch):
    base, safety, *_ = write_family(tmp_path)
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe("ties", base, safety)))
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr("ledmerge.run.device.choose_device", lambda name: gpu)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(32))
    found = CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yaml"), "--json"])
    whole = plan(tmp_path / "recipe.yaml")
    on_gpu = whole.as_json(threads=8, out=tmp_path, piece=piece_on(gpu))["peak_memory"]
    assert json.loads(found.stdout)["peak_memory"] == on_gpu
    assert on_gpu > whole.as_json(threads=8, out=tmp_path)["peak_memory"]


def test_what_an_interrupted_run_reserved_is_not_needed_again(tmp_path: Path, monkeypatch):
    base, safety, *_ = write_family(tmp_path)
    given, out = recipe("linear", base, safety), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        ledmerge.merge(given, out, threads=1, progress=stop_after(1))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: Usage(0, 0, 4096))
    ledmerge.merge(given, out, resume=True)
    assert out.is_dir()


def test_memory_is_checked_per_thread(tmp_path: Path):
    base, safety, math, _ = write_family(tmp_path)
    found = plan(recipe("ties", base, safety, math))
    check_memory(found, None, 1000)
    check_memory(found, 512 * 2**20, 2)
    assert found.problems == []
    check_memory(found, 512 * 2**20, 1000)
    (problem,) = found.problems
    assert problem.endswith("give more, or fewer --threads")


def test_a_second_name_in_one_memory_may_be_missing_elsewhere(tmp_path: Path):
    shared, own = w(6, 4), w(3)
    names = ("shared.weight", "encoder.embed_tokens.weight", "lm_head.weight")
    pickled = write_model(tmp_path / "pickled", {})
    (pickled / "model.safetensors").unlink()
    state = {**dict.fromkeys(names, shared), "norm.weight": own}
    torch.save(state, pickled / "pytorch_model.bin")
    for kept in (names[0], names[2]):
        plain = write_model(tmp_path / "plain", {kept: shared, "norm.weight": own})
        for base, expert in ((pickled, plain), (plain, pickled)):
            found = plan(recipe("linear", base, expert))
            assert found.problems == []
            assert {tensor.new.name for tensor in found.tensors} == {kept, "norm.weight"}
            assert found.left_out.keys() == {*names} - {kept}
    both = plan(recipe("linear", pickled, pickled))
    assert {tensor.new.name for tensor in both.tensors} == state.keys()  # not tied for sure
    lacking = write_model(tmp_path / "lacking", {"norm.weight": own})
    assert len(plan(recipe("linear", pickled, lacking)).problems) == 3
