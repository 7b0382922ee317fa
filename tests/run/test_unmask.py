"""Masks beside a merge, and the models of single tasks rebuilt from them."""

import json
import shutil
from pathlib import Path

import numpy as np
import peft_adapters as by
import pytest
import torch
import yaml
from families import (
    SHAPES,
    files_of,
    read_all,
    recipe,
    same,
    stop_after,
    write_family,
    write_model,
)
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import ledmerge
from ledmerge.errors import CheckpointError, OutputError, RecipeError
from ledmerge.methods.emr import emr
from ledmerge.recipe.recipe import load_recipe
from ledmerge.run.plan import free_space, plan
from standin_hub import StandInHub

MODELS = ["safety", "math", "code"]
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> list[Path]:
    return write_family(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def merged(family) -> Path:
    out = family[0].parent / "merged"
    ledmerge.merge(recipe("emr", *family), out, threads=2)
    return out


@pytest.fixture
def copied(family, merged, tmp_path: Path) -> Path:
    """A merge that may be damaged."""
    return shutil.copytree(merged, tmp_path / "merged")


def whole(family: list[Path], name: str) -> dict[str, torch.Tensor]:
    """What EMR says of a whole tensor."""
    told: dict[str, torch.Tensor] = {}
    base, *models = (read_all(folder)[name].float() for folder in family)
    emr(base, torch.stack(models) - base, keep=told.update, record=told.update)
    return told


def unpacked(merged: Path, model: str, name: str) -> np.ndarray:
    packed = load_file(merged / "masks" / f"{model}.safetensors")[name].numpy()
    numel = torch.Size(SHAPES[name][0]).numel()
    assert packed.nbytes == (numel + 7) // 8
    return np.unpackbits(packed, bitorder="little")[:numel]


def test_each_model_has_its_mask_a_bit_an_entry(family, merged):
    assert sorted(path.name for path in (merged / "masks").iterdir()) == [
        f"{model}.safetensors" for model in sorted(MODELS)
    ]
    for name in SHAPES:
        masks = whole(family, name)["masks"].reshape(3, -1).numpy()
        for model, mask in zip(MODELS, masks, strict=True):
            assert np.array_equal(unpacked(merged, model, name), mask), (model, name)


@pytest.mark.parametrize("model", MODELS)
def test_a_task_is_the_base_and_what_its_mask_lets_through_rescaled(
    family, merged, tmp_path: Path, model: str
):
    place = MODELS.index(model)
    told = [whole(family, name) for name in SHAPES]
    size, kept = (float(sum(each[what][place] for each in told)) for what in ("size", "kept"))
    task = ledmerge.unmask(merged, model, tmp_path / "task")
    assert task["rescale"] == pytest.approx(size / kept, rel=1e-12)
    base, unified, found = read_all(family[0]), read_all(merged), read_all(tmp_path / "task")
    assert found.keys() == unified.keys()
    for name, start in base.items():
        if name not in SHAPES:
            assert same(found[name], start)
            continue
        mask = torch.from_numpy(unpacked(merged, model, name)).view(start.shape)
        update = (unified[name].float() - start.float()) * mask * task["rescale"]
        expected = (start.float() + update).to(start.dtype)
        torch.testing.assert_close(found[name], expected, rtol=1e-2, atol=0)
    assert json.loads((tmp_path / "task" / "task.json").read_text()) == task
    assert sorted(files_of(tmp_path / "task")) == [
        "config.json",
        "model.safetensors",
        "task.json",
    ]


def test_a_rebuilt_task_is_as_long_a_change_as_its_expert_and_nearer_than_the_merge(
    family, tmp_path: Path
):
    ledmerge.merge(recipe("emr", *family, dtype="float32"), tmp_path / "merged")
    ledmerge.unmask(tmp_path / "merged", "math", tmp_path / "task")
    base, math, unified, task = (
        read_all(folder)
        for folder in (family[0], family[2], tmp_path / "merged", tmp_path / "task")
    )
    size, rebuilt = (
        sum((each[name].float() - base[name].float()).abs().sum() for name in SHAPES)
        for each in (math, task)
    )
    torch.testing.assert_close(rebuilt, size)
    near, far = ((each[EMBEDDING] - math[EMBEDDING]).norm() for each in (task, unified))
    assert near < far


def test_one_model_alone_comes_back(family, tmp_path: Path):
    ledmerge.merge(recipe("emr", *family[:2], dtype="float32"), tmp_path / "merged")
    task = ledmerge.unmask(tmp_path / "merged", "safety", tmp_path / "task")
    assert task["rescale"] == 1.0
    assert torch.equal(
        read_all(tmp_path / "task")[EMBEDDING], read_all(family[1])[EMBEDDING].float()
    )


def test_threads_shards_and_interruptions_do_not_show(family, merged, tmp_path: Path):
    given, out = recipe("emr", *family), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        ledmerge.merge(given, out, threads=1, shard_size=1000, progress=stop_after(3))
    assert not out.exists()
    partial = tmp_path / ".out.partial"
    assert (partial / "masks").is_dir()
    done = [json.loads(line) for line in (partial / "journal.jsonl").read_text().splitlines()[1:]]
    assert done
    # What was noted but lost with the power is made again.
    (partial / "masks" / "math.safetensors").unlink()
    assert free_space(out) >= (partial / "masks" / "code.safetensors").stat().st_size
    ledmerge.merge(given, out, threads=2, shard_size=1000, resume=True)
    for model in MODELS:
        path = f"masks/{model}.safetensors"
        assert (out / path).read_bytes() == (merged / path).read_bytes()
    assert ledmerge.verify(out)["digest"] == ledmerge.verify(merged)["digest"]


def flip(path: Path) -> None:
    """Change the last byte that is not of an empty tensor."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_damaged_mask_is_found(copied, tmp_path: Path):
    flip(copied / "masks" / "math.safetensors")
    with pytest.raises(CheckpointError, match=r"the mask of '\S+' for math differs"):
        ledmerge.verify(copied)
    with pytest.raises(CheckpointError, match="the mask is not that of the merge's record"):
        ledmerge.unmask(copied, "math", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ledmerge.unmask(copied, "code", tmp_path / "code")


def test_damaged_weights_and_another_base_are_found(family, copied, tmp_path: Path):
    with pytest.raises(CheckpointError, match="the base are not those of the merge's record"):
        ledmerge.unmask(copied, "math", tmp_path / "out", base=family[1])
    flip(copied / "model.safetensors")
    with pytest.raises(CheckpointError, match="the merged weights are not those of the merge's"):
        ledmerge.unmask(copied, "math", tmp_path / "out", overwrite=True)


def test_what_cannot_be_rebuilt_is_told(family, merged, tmp_path: Path):
    with pytest.raises(RecipeError, match="no model 'maths' was merged; did you mean 'math'"):
        ledmerge.unmask(merged, "maths", tmp_path / "out")
    ledmerge.merge(recipe("linear", *family), tmp_path / "linear")
    with pytest.raises(CheckpointError, match="keeps no masks"):
        ledmerge.unmask(tmp_path / "linear", "math", tmp_path / "out")
    ledmerge.unmask(merged, "math", tmp_path / "out")
    with pytest.raises(OutputError, match="exists"):
        ledmerge.unmask(merged, "math", tmp_path / "out")
    ledmerge.unmask(merged, "code", tmp_path / "out", overwrite=True)


def test_a_record_without_paths_takes_a_base_that_is_given(family, copied, tmp_path: Path):
    record = json.loads((copied / "ledmerge.json").read_text())
    for each in record["inputs"]:
        del each["path"]  # as `push` does
    (copied / "ledmerge.json").write_text(json.dumps(record))
    with pytest.raises(
        CheckpointError, match=r"not say where the base 'base' lies, .* give `base`"
    ):
        ledmerge.unmask(copied, "math", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ledmerge.unmask(copied, "math", tmp_path / "out", base=family[0])


def test_a_base_of_the_hub_is_found_at_the_commit_of_the_record(
    online_hub: StandInHub, family, tmp_path: Path
):
    files = {path.name: path.read_bytes() for path in family[0].iterdir()}
    online_hub.add("org/base", files)
    record = ledmerge.merge(recipe("emr", Path("org/base"), *family[1:]), tmp_path / "merged")
    del record["inputs"][0]["path"]
    (tmp_path / "merged" / "ledmerge.json").write_text(json.dumps(record))
    weights = {"model.safetensors": (family[1] / "model.safetensors").read_bytes()}
    online_hub.repositories["org/base"].commit({**files, **weights})
    task = ledmerge.unmask(tmp_path / "merged", "math", tmp_path / "out")
    assert task["merged"] == record["digest"]


def test_a_float8_base_is_read_as_the_merge_read_it(tmp_path: Path):
    name, scale = "model.layers.0.mlp.up_proj.weight", torch.tensor(0.25)
    values = torch.randn(40, 70, generator=torch.Generator().manual_seed(0))
    stored = {name: values.to(torch.float8_e4m3fn), f"{name}_scale": scale}
    said = {"quantization_config": {"quant_method": "modelopt"}}
    base = write_model(tmp_path / "base", stored, **said)
    expert = write_model(tmp_path / "expert", {name: values})
    ledmerge.merge(
        recipe("emr", base, expert, dequantize=True, dtype="float32"), tmp_path / "merged"
    )
    ledmerge.unmask(tmp_path / "merged", "expert", tmp_path / "task")
    torch.testing.assert_close(read_all(tmp_path / "task")[name], values)


def test_a_plan_counts_masks(family):
    weights, masks = (plan(recipe(method, *family)).bytes_out for method in ("ties", "emr"))
    numels = [torch.Size(shape).numel() for shape, _ in SHAPES.values()]
    assert masks - weights == 3 * sum((numel + 7) // 8 for numel in numels)


def test_a_guard_is_refused(family):
    guard = {"scores": "math", "density": 0.1, "keep": "math"}
    with pytest.raises(RecipeError, match="guard: emr keeps masks of its own merge"):
        load_recipe(recipe("emr", *family, guard=guard))


def test_merge_and_task_load_and_generate(model_folder, tmp_path: Path):
    models = [model_folder("llama_tied", seed) for seed in range(3)]
    ledmerge.merge(recipe("emr", *models, dtype="float32"), tmp_path / "merged")
    ledmerge.unmask(tmp_path / "merged", models[1].name, tmp_path / "task")
    for folder in ("merged", "task"):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        tokens = model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, min_new_tokens=3)
        assert tokens.shape == (1, 5)
    assert (tmp_path / "task" / "tokenizer.json").is_file()


def test_a_model_made_on_the_way_has_its_mask_and_cannot_be_the_base(tmp_path: Path):
    write_family(tmp_path)
    step = recipe("ram", tmp_path / "base", tmp_path / "safety", tmp_path / "math", name="half")
    result = {"merge_method": "emr", "base_model": "base"}
    result["models"] = [{"model": "half"}, {"model": "code"}]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump_all([step, result]))
    record = ledmerge.merge(path, tmp_path / "out")
    assert list(record["masks"]) == ["half", "code"]
    ledmerge.unmask(tmp_path / "out", "half", tmp_path / "task")

    result |= {"base_model": "half", "models": [{"model": "code"}]}
    path.write_text(yaml.safe_dump_all([step, result]))
    ledmerge.merge(path, tmp_path / "upon")
    with pytest.raises(CheckpointError, match="steps/half: no such folder"):
        ledmerge.unmask(tmp_path / "upon", "code", tmp_path / "other")


def test_masks_that_would_be_lost_with_their_step_are_refused(tmp_path: Path):
    write_family(tmp_path)
    step = recipe("emr", tmp_path / "base", tmp_path / "safety", tmp_path / "math", name="half")
    result = recipe("linear", None, Path("half"), tmp_path / "code")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump_all([step, result]))
    said = "'half': the masks that emr keeps would be lost with it .*; merge it by itself"
    with pytest.raises(RecipeError, match=said):
        ledmerge.merge(path, tmp_path / "out")


def test_an_interrupted_rebuild_is_begun_again(merged, tmp_path: Path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr("ledmerge.run.unmask.copy_sidecar", fail)
        with pytest.raises(OutputError, match=r"No space left on device; .*, run it again"):
            ledmerge.unmask(merged, "math", out)
    assert (tmp_path / ".out.partial").is_dir()
    ledmerge.unmask(merged, "code", out)  # another task
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert json.loads((out / "task.json").read_text())["task"] == "code"


def test_adapters_have_masks_and_may_be_the_base(tmp_path: Path):
    model = by.write_base(tmp_path / "model", "llama")
    base, math, code = (by.write_adapter(tmp_path / f"a{i}", model, seed=i) for i in range(3))
    base, math, code = (f"{model}+{adapter}" for adapter in (base, math, code))
    given = {"merge_method": "emr", "base_model": base, "dtype": "float32"}
    given["models"] = [{"model": math}, {"model": code}]
    record = ledmerge.merge(given, tmp_path / "merged")
    assert list(record["masks"]) == ["a1", "a2"]
    with pytest.raises(CheckpointError, match=r"the base are not .* as MODEL\+ADAPTER if it was"):
        ledmerge.unmask(tmp_path / "merged", "a1", tmp_path / "failed")
    task = ledmerge.unmask(tmp_path / "merged", "a1", tmp_path / "task", base=base)

    plain = {}
    for name, adapter in (("base", "a0"), ("math", "a1"), ("code", "a2")):
        plain[name] = tmp_path / name
        ledmerge.apply(tmp_path / adapter, plain[name], base=model)
    ledmerge.merge(recipe("emr", *plain.values()), tmp_path / "applied")
    expected = ledmerge.unmask(tmp_path / "applied", "math", tmp_path / "expected")
    assert task["rescale"] == expected["rescale"]
    found, wanted = read_all(tmp_path / "task"), read_all(tmp_path / "expected")
    assert all(same(found[name], tensor) for name, tensor in wanted.items())
