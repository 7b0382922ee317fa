"""Finding models: by path, by hub id in a cache built by hand, and all that is neither."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING

from ledmerge.errors import CheckpointError
from ledmerge.models.find import find_model
from ledmerge.models.reference import ModelReference
from ledmerge.models.roles import TIED_BY_DEFAULT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"


def write_hub_cache(cache: Path, name: str, commit: str, ref: str | None) -> Path:
    """A model as the hub's library keeps it: blobs, snapshots of links, and names of commits."""
    home = cache / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    (home / "blobs").mkdir(parents=True, exist_ok=True)
    snapshot.mkdir(parents=True)
    files = {"config.json": "config", "model.safetensors": "weights"}
    (home / "blobs" / f"config{commit}").write_text(json.dumps({"commit": commit}))
    save_file({"w": torch.ones(2)}, home / "blobs" / f"weights{commit}")
    for file, blob in files.items():
        (snapshot / file).symlink_to(Path("../../blobs") / f"{blob}{commit}")
    if ref:
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / ref).write_text(commit)
    return snapshot


@pytest.fixture
def hub(tmp_path: Path, monkeypatch) -> Path:
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


def test_a_folder_is_found_by_its_path(write_model):
    folder = write_model("math", {"w": torch.ones(2)}, tie_word_embeddings=True)
    model = find_model(str(folder))
    assert (model.path, model.revision, model.name) == (folder, None, "math")
    assert model.is_tied
    assert model.checkpoint.entries.keys() == {"w"}
    assert find_model(model) is model
    assert find_model("a name of a recipe", lambda _: folder).path == folder


@pytest.mark.parametrize(
    ("config", "is_tied"),
    [
        ({}, False),
        ({"tie_word_embeddings": False}, False),
        ({"text_config": {"tie_word_embeddings": True}}, True),
        ({"text_config": None}, False),
        ({"model_type": "gemma2"}, True),
        ({"model_type": "gpt2", "tie_word_embeddings": False}, False),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, True),
        ({"model_type": "internvl", "text_config": {"model_type": "qwen2"}}, False),
    ],
)
def test_ties_are_read_off_the_config(write_model, config: dict, is_tied: bool):
    assert find_model(write_model("m", {"w": torch.ones(2)}, **config)).is_tied == is_tied


def test_kinds_tied_by_default_are_those_of_transformers():
    for kind in TIED_BY_DEFAULT.intersection(CONFIG_MAPPING):
        assert CONFIG_MAPPING[kind]().tie_word_embeddings, kind


def test_a_hub_id_is_resolved_to_a_commit(hub: Path):
    old = write_hub_cache(hub, "org/tiny", OLDER, "v1")
    new = write_hub_cache(hub, "org/tiny", COMMIT, "main")
    for reference, snapshot in (
        ("org/tiny", new),
        ("org/tiny@main", new),
        ("org/tiny@v1", old),
        (f"org/tiny@{OLDER}", old),
    ):
        model = find_model(reference)
        assert (model.path, model.revision) == (snapshot, snapshot.name)
        assert model.config == {"commit": snapshot.name}
        assert model.name == reference
        assert model.checkpoint.entries.keys() == {"w"}


def test_a_path_that_exists_wins_over_a_hub_id(hub: Path, tmp_path: Path, write_model, monkeypatch):
    write_hub_cache(hub, "org/tiny", COMMIT, "main")
    write_model("org", {"w": torch.ones(2)}).rename(tmp_path / "tiny")
    (tmp_path / "org").mkdir()
    (tmp_path / "tiny").rename(tmp_path / "org" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert find_model("org/tiny").revision is None


@pytest.mark.parametrize("reference", ["org/none", "org/tiny@v9", "org/a--b", "org/a..b"])
def test_a_hub_id_that_is_not_there_is_named(hub: Path, reference: str):
    write_hub_cache(hub, "org/tiny", COMMIT, "main")
    with pytest.raises(CheckpointError, match=f"^{reference}: no folder at {reference}, and the"):
        find_model(reference)


def test_a_hub_that_does_not_answer_is_said(hub: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        CheckpointError, match=r"org/tiny: no folder .*does not give it \(.*refused"
    ):
        find_model("org/tiny")


@pytest.mark.parametrize(
    "reference", ["none", "/no/such/folder", "a/b/c", "../x", "http://x/y", ""]
)
def test_what_is_neither_path_nor_hub_id_is_refused(tmp_path: Path, monkeypatch, reference: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        find_model(reference)


CONFIGS = {
    "missing": (None, "no config.json; expected a Hugging Face folder"),
    "not JSON": ("{", "cannot be read as JSON"),
    "deep": ("[" * 200_000, "cannot be read as JSON"),
    "not UTF-8": (b"\xff", "cannot be read as JSON"),
    "a list": ("[]", "expected a JSON object"),
}


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, config: str):
    content, said = CONFIGS[config]
    if content is not None:
        (tmp_path / "config.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    with pytest.raises(CheckpointError, match=said) as caught:
        find_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_tokenizers_digest_follows_its_files_and_their_names(write_model):
    folder = write_model("m", {"w": torch.ones(2)})
    model = find_model(folder)
    seen = [model.tokenizer_digest()]
    (folder / "notes.txt").write_text("no part of it")
    assert model.tokenizer_digest() == seen[0]
    for change in (
        lambda: (folder / "tokenizer.json").write_text("{}"),
        lambda: (folder / "tokenizer.json").write_text("{} "),
        lambda: (folder / "tokenizer.json").rename(folder / "vocab.json"),
        lambda: (folder / "chat_template.jinja").write_text("{{ bos_token }}"),
        lambda: (folder / "vocab.txt").write_text("a"),
        lambda: (folder / "spiece.model").write_text("a"),
        lambda: (folder / "qwen.tiktoken").write_text("a"),
        lambda: (folder / "tekken.json").write_text("{}"),
        lambda: (folder / "modeling.py").write_text("pass"),
    ):
        change()
        seen.append(model.tokenizer_digest())
    assert len(set(seen)) == 10


@pytest.mark.parametrize(("file", "said"), [("m.gguf", "GGUF stores"), ("m.bin", "a model's fol")])
def test_a_file_is_no_model(tmp_path: Path, file: str, said: str):
    (tmp_path / file).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=said):
        find_model(tmp_path / file)


def write_lora(folder: Path, **settings: object) -> Path:
    """An adapter that replaces `w` whole."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"base_model.model.w": torch.zeros(2)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **settings}))
    return folder


def test_a_hub_model_may_carry_a_hub_adapter(hub: Path):
    model = write_hub_cache(hub, "org/tiny", OLDER, "v1")
    home = hub / "models--org--lora"
    lora = write_lora(
        home / "snapshots" / COMMIT, base_model_name_or_path="org/tiny", revision="v1"
    )
    (home / "refs").mkdir()
    (home / "refs" / "v2").write_text(COMMIT)
    parts = ModelReference("org/tiny", "v1", "org/lora", "v2")
    for reference in ("org/tiny@v1+org/lora@v2", parts, "org/lora@v2"):
        found = find_model(reference)
        assert (found.path, found.home) == (model, lora)
        assert found.revision == f"{OLDER}+{COMMIT}"
        assert found.name == found.reference == str(reference)
        assert torch.equal(found.checkpoint.read("w"), torch.zeros(2))


def test_an_adapter_needs_a_model_under_it(tmp_path: Path, write_model):
    write_model("model", {"w": torch.ones(2)})
    lora, lone = (write_lora(tmp_path / name) for name in ("lora", "lone"))
    write_lora(lora, base_model_name_or_path=str(lone))
    for reference, said in (
        (lone, "names no base; give it with 'base_model'"),
        (lora, "is an adapter, and a model is expected here"),
        (f"{lone}+{lora}", "is an adapter, and a model is expected here"),
        (f"{tmp_path}/model+{tmp_path}/nothing", "nothing: no such folder"),
        (f"{tmp_path}/model+", "not MODEL.ADAPTER"),
        (ModelReference(f"{tmp_path}/model", "v1"), "a folder has no revision"),
        (f"{tmp_path}/model+{tmp_path}/model", r"adapter_config\.json: cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=said):
            find_model(reference)


@pytest.mark.parametrize("content", ["{", "[]", "[" * 200_000])
def test_an_adapters_settings_that_cannot_be_read_are_named(tmp_path: Path, content: str):
    lora = write_lora(tmp_path / "lora")
    (lora / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: (cannot|expected)"):
        find_model(lora)
