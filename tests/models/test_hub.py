"""Models of a hub: what is read there, what is fetched, and what is said when it refuses."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ledmerge.errors import CheckpointError
from ledmerge.models.compatible import differences
from ledmerge.models.find import find_model, open_models
from ledmerge.models.hub import _FIRST
from standin_hub import TOKEN, StandInHub

WEIGHT = torch.arange(100_000.0)
HEADERS = 4 * _FIRST
"""More than the headers of two small shards can take."""


def sharded(num_tensors: int = 1) -> dict[str, bytes]:
    """A model of two shards, with the same weights as .bin and in other formats."""
    first = {f"a{i}": WEIGHT + i for i in range(num_tensors)}
    shards = {
        "model-00001-of-00002.safetensors": save(first, {"format": "pt"}),
        "model-00002-of-00002.safetensors": save({"b": -WEIGHT}, {"format": "pt"}),
    }
    places = {**dict.fromkeys(first, "model-00001-of-00002.safetensors")}
    places["b"] = "model-00002-of-00002.safetensors"
    return {
        "config.json": json.dumps({"model_type": "llama"}).encode(),
        "README.md": b"---\nlicense: mit\n---\n",
        "tokenizer.json": json.dumps({"model": {"vocab": {"x" * 300_000: 0}}}).encode(),
        "model.safetensors.index.json": json.dumps({"weight_map": places}).encode(),
        "pytorch_model.bin": b"never fetched",
        "model.gguf": b"never fetched",
        "onnx/model.onnx": b"never fetched",
        **shards,
    }


def test_a_model_is_opened_for_the_price_of_its_headers(online_hub: StandInHub):
    commit = online_hub.add("org/tiny", sharded())
    model = find_model("org/tiny")
    assert (model.revision, model.name) == (commit, "org/tiny")
    assert model.config == {"model_type": "llama"}
    assert model.checkpoint.entries.keys() == {"a0", "b"}
    assert model.checkpoint.entries["b"].shape == (100_000,)
    assert set(online_hub.served) == {
        "org/tiny/config.json",
        "org/tiny/model.safetensors.index.json",
        "org/tiny/model-00001-of-00002.safetensors",
        "org/tiny/model-00002-of-00002.safetensors",
    }
    assert online_hub.total < HEADERS


def test_a_shard_is_fetched_when_a_tensor_of_it_is_read(online_hub: StandInHub):
    online_hub.add("org/tiny", sharded())
    checkpoint = find_model("org/tiny").checkpoint
    (missing,) = checkpoint.unfetched(["b"])
    assert missing[1] == "model-00002-of-00002.safetensors"
    before = online_hub.served["org/tiny/model-00001-of-00002.safetensors"]
    assert torch.equal(checkpoint.read("b"), -WEIGHT)
    assert online_hub.served["org/tiny/model-00001-of-00002.safetensors"] == before
    assert not checkpoint.unfetched(["b"])
    assert checkpoint.unfetched(["a0", "b"])
    assert torch.equal(checkpoint.read("a0"), WEIGHT)


def test_stamps_stay_when_a_file_is_fetched(online_hub: StandInHub):
    online_hub.add("org/tiny", sharded())
    checkpoint = find_model("org/tiny").checkpoint
    before = [checkpoint.stamp(path) for path in checkpoint.files()]
    checkpoint.read("b")
    assert [checkpoint.stamp(path) for path in checkpoint.files()] == before


def test_a_long_header_is_read_whole(online_hub: StandInHub):
    tensors = {f"{'name' * 20}.{number}": torch.ones(1) for number in range(500)}
    data = save(tensors)
    assert int.from_bytes(data[:8], "little") > _FIRST
    online_hub.add("org/tiny", {"config.json": b"{}", "model.safetensors": data})
    entries = find_model("org/tiny").checkpoint.entries
    assert entries.keys() == tensors.keys()
    assert online_hub.served["org/tiny/model.safetensors"] <= len(data)


def test_all_that_others_read_is_fetched_and_no_other_format(online_hub: StandInHub):
    files = sharded()
    online_hub.add("org/tiny", files)
    folder = find_model("org/tiny").fetch()
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == files.keys() - {"pytorch_model.bin", "model.gguf", "onnx/model.onnx"}


def test_tokenizers_that_are_alike_are_not_fetched(online_hub: StandInHub):
    files = sharded()
    for name in ("org/one", "org/two"):
        online_hub.add(name, files)
    other = json.dumps({"model": {"vocab": {"y": 0}}}).encode()
    online_hub.add("org/other", {**files, "tokenizer.json": other})
    one, two, three = map(find_model, ("org/one", "org/two", "org/other"))
    assert not differences(one, two)
    assert not any("tokenizer" in name for name in online_hub.served)
    assert "1 tokens differ" in differences(one, three)[0]


def test_a_bin_model_is_fetched_to_be_opened(online_hub: StandInHub, tmp_path: Path):
    torch.save({"w": WEIGHT}, tmp_path / "weights")
    data = (tmp_path / "weights").read_bytes()
    online_hub.add("org/old", {"config.json": b"{}", "pytorch_model.bin": data})
    assert torch.equal(find_model("org/old").checkpoint.read("w"), WEIGHT)
    assert online_hub.served["org/old/pytorch_model.bin"] == len(data)


def test_a_revision_is_its_commit(online_hub: StandInHub):
    old = online_hub.add("org/tiny", sharded())
    repository = online_hub.repositories["org/tiny"]
    repository.refs["v1"] = old
    new = repository.commit({**sharded(), "config.json": b"{}"})
    found = {each: find_model(f"org/tiny@{each}").revision for each in ("v1", "main", old)}
    assert found == {"v1": old, "main": new, old: old}


def test_what_is_in_the_cache_works_without_the_hub(online_hub: StandInHub, monkeypatch):
    commit = online_hub.add("org/tiny", sharded())
    find_model("org/tiny").fetch()
    total = online_hub.total
    find_model("org/tiny").checkpoint.read("b")
    assert online_hub.total == total
    online_hub.is_down = True
    model = find_model("org/tiny")
    assert model.revision == commit
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    again = find_model("org/tiny@main")
    assert again.revision == commit
    assert torch.equal(again.checkpoint.read("b"), -WEIGHT)
    one, two = (
        [each.checkpoint.stamp(p) for p in each.checkpoint.files()] for each in (model, again)
    )
    assert one == two


def test_a_part_in_the_cache_is_told_offline(online_hub: StandInHub, monkeypatch):
    online_hub.add("org/tiny", sharded())
    find_model("org/tiny").checkpoint.read("b")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match=r"missing shards: model-00001.*`hf download org/tiny` adds it"
    ):
        _ = find_model("org/tiny").checkpoint


def test_what_the_hub_refuses_is_told_with_what_to_do(online_hub: StandInHub, monkeypatch):
    online_hub.add("org/gated", sharded(), gated=True)
    online_hub.add("org/private", sharded(), private=True)
    online_hub.add("org/tiny", sharded())
    online_hub.add("org/none", {"README.md": b""})
    terms = rf"terms have to be accepted first, at {online_hub.url}/org/gated; then set HF_TOKEN"
    for reference, said in {
        "org/gated": terms,
        "org/private": "check the spelling; a private model needs HF_TOKEN",
        "org/unknown": "check the spelling; a private model needs HF_TOKEN",
        "org/tiny@v9": "expected a branch, tag or commit of org/tiny",
        "org/none": "holds neither config.json nor adapter_config.json",
        "org/a--b": "expected owner/name, or the path of a folder",
    }.items():
        with pytest.raises(CheckpointError, match=said):
            find_model(reference)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for reference in ("org/gated", "org/private"):
        assert find_model(reference).checkpoint.entries.keys() == {"a0", "b"}
    online_hub.is_down = True
    with pytest.raises(CheckpointError, match="models that are in the cache work without it"):
        find_model("org/unknown")


def test_a_misspelt_folder_asks_no_hub(online_hub: StandInHub, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("safety", "math"):
        (tmp_path / "models" / name).mkdir(parents=True)
    before = online_hub.total
    asked = ["org/tiny", "models/safty", "./models/maths", str(tmp_path / "none")]
    with pytest.raises(CheckpointError) as caught:
        open_models(asked)
    first, second, third = str(caught.value).splitlines()
    assert "did you mean 'models/safety'? If it is on the hub, write models/safty@main" in first
    assert "no such folder" in second
    assert "did you mean 'models/math'?" in second
    assert "none: no such folder" in third
    assert online_hub.total == before
    online_hub.add("models/safty", sharded())
    assert find_model("models/safty@main").revision
    assert find_model("models/safty").revision  # in the cache now


def test_a_file_cut_short_on_the_hub_is_named(online_hub: StandInHub):
    data = save({"w": WEIGHT})
    for cut in (3, 20, len(data) - 1):
        online_hub.add(f"org/cut{cut}", {"config.json": b"{}", "model.safetensors": data[:cut]})
        with pytest.raises(
            CheckpointError, match=rf"^org/cut{cut}@\w+: 'model.safetensors' is damaged on the hub"
        ):
            _ = find_model(f"org/cut{cut}").checkpoint


def test_a_file_that_goes_away_is_named(online_hub: StandInHub):
    online_hub.add("org/tiny", sharded())
    checkpoint = find_model("org/tiny").checkpoint
    online_hub.repositories.clear()
    with pytest.raises(
        CheckpointError, match=r"'model-00002-of-00002\.safetensors' cannot be fetch"
    ):
        checkpoint.read("b")
