"""One model written anew: the same weights, all files, another form."""

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from families import (
    WHOLE_NUMBERS,
    base_tensors,
    files_of,
    read_all,
    same,
    stop_after,
    write_model,
)

import ledmerge
from ledmerge.errors import CheckpointError, NonFiniteError, OutputError, RecipeError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tensors = base_tensors()
    tensors["model.embed_tokens.weight"][0, :2] = torch.tensor([-0.0, 1e-40])  # kept as they are
    folder = write_model(tmp_path / "model", tensors)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def test_without_a_dtype_every_bit_is_kept_in_other_shards(model: Path, tmp_path: Path):
    out = tmp_path / "out"
    record = ledmerge.convert(model, out, shard_size=1000)
    before, after = read_all(model), read_all(out)
    assert before.keys() == after.keys()
    assert all(same(after[name], tensor) for name, tensor in before.items())
    assert len(list(out.glob("model-*.safetensors"))) > 1
    assert (out / "README.md").read_text() == (model / "README.md").read_text()
    assert (out / "tokenizer.json").exists()
    assert json.loads((out / "ledmerge.json").read_text()) == record
    assert ledmerge.verify(out, deep=True)["tensors"] == len(before)


def test_a_dtype_is_one_cast_and_integers_stay(model: Path, tmp_path: Path):
    ledmerge.convert(model, tmp_path / "out", dtype="bfloat16")
    after = read_all(tmp_path / "out")
    for name, tensor in read_all(model).items():
        whole = name in WHOLE_NUMBERS
        assert same(after[name], tensor if whole else tensor.to(torch.bfloat16))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("is_finished", [False, True])
def test_what_is_there_of_another_convert_is_told_in_its_own_words(
    model: Path, tmp_path: Path, is_finished: bool
):
    with nullcontext() if is_finished else pytest.raises(KeyboardInterrupt):
        progress = None if is_finished else stop_after(2)
        ledmerge.convert(model, tmp_path / "out", threads=1, progress=progress)
    with pytest.raises(OutputError, match=r"had another model .*, other options or") as caught:
        ledmerge.convert(model, tmp_path / "out", dtype="float16", resume=True)
    assert "recipe" not in str(caught.value)


def test_pickled_shards_become_safetensors(tmp_path: Path):
    folder = write_model(tmp_path / "model", {}, tie_word_embeddings=True)
    (folder / "model.safetensors").unlink()
    embedding = torch.randn(9, 4)
    shards = [
        {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding},
        {"model.norm.weight": torch.randn(4), "model.q.weight": torch.randn(4, 6).T},
    ]
    for number, state in enumerate(shards):
        torch.save(state, folder / f"pytorch_model-{number}.bin")
    weight_map = {n: f"pytorch_model-{k}.bin" for k, state in enumerate(shards) for n in state}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    record = ledmerge.convert(folder, tmp_path / "out")
    expected = {**shards[0], **shards[1]}
    del expected["lm_head.weight"]  # tied
    after = read_all(tmp_path / "out")
    assert after.keys() == expected.keys()
    assert all(same(after[name], tensor) for name, tensor in expected.items())
    assert list(record["left_out"]) == ["lm_head.weight"]
    assert not list((tmp_path / "out").glob("*.bin*"))


def test_a_head_that_the_config_wrongly_ties_is_not_lost(tmp_path: Path):
    embedding = torch.randn(9, 4)
    tensors = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}
    base = write_model(tmp_path / "base", tensors, tie_word_embeddings=True)
    ledmerge.convert(base, tmp_path / "equal")
    assert read_all(tmp_path / "equal").keys() == {"model.embed_tokens.weight"}
    tensors["lm_head.weight"][8, 3] += 1
    model = write_model(tmp_path / "model", tensors, tie_word_embeddings=True)
    recipe = {"merge_method": "linear", "models": [{"model": str(m)} for m in (base, model)]}
    for command in (
        partial(ledmerge.convert, model),
        partial(ledmerge.merge, recipe),
        partial(ledmerge.extract_lora, model, base=base, rank=1),
    ):
        with pytest.raises(CheckpointError, match=r"model: 'lm_head.weight' is not 'model.embed"):
            command(out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_conversion_goes_on(model: Path, tmp_path: Path):
    ledmerge.convert(model, tmp_path / "straight", shard_size=1000)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        ledmerge.convert(model, out, shard_size=1000, threads=1, progress=stop_after(3))
    assert not out.exists()
    with pytest.raises(OutputError, match="an interrupted run is in"):
        ledmerge.convert(model, out, shard_size=1000)
    ledmerge.convert(model, out, shard_size=1000, resume=True)
    assert files_of(out) == files_of(tmp_path / "straight")


REFUSED = {
    "float64 as it is": ({"w": torch.ones(2, dtype=torch.float64)}, {}, CheckpointError, "is F64"),
    "not a number": ({"w": torch.tensor([float("nan")])}, {}, NonFiniteError, "'w' in model"),
    "too large": ({"w": torch.tensor([1e9])}, {"dtype": "float16"}, NonFiniteError, "overflow F16"),
    "no such dtype": ({"w": torch.ones(2)}, {"dtype": "int4"}, RecipeError, "dtype: "),
    "quantized": (
        {"w.weight": torch.ones(2, 2).to(torch.float8_e4m3fn)},
        {"dtype": "bfloat16"},
        RecipeError,
        "quantized",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_wrong_is_refused(tmp_path: Path, case: str):
    tensors, options, kind, said = REFUSED[case]
    folder = write_model(tmp_path / "model", tensors)
    with pytest.raises(kind, match=said):
        ledmerge.convert(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_float64_is_converted_where_a_dtype_is_named(tmp_path: Path):
    tensors = {"w": torch.tensor([1 / 3], dtype=torch.float64)}
    ledmerge.convert(write_model(tmp_path / "m", tensors), tmp_path / "out", dtype="float32")
    assert same(read_all(tmp_path / "out")["w"], tensors["w"].float())
