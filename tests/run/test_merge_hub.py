"""Merges of models on a hub: what is fetched, what is recorded, what is made of it."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from families import base_tensors, expert_tensors, listen, read_all, same, write_model
from safetensors.torch import save
from typer.testing import CliRunner

import ledmerge
from ledmerge.cli.app import app
from ledmerge.errors import OutputError, RecipeError
from ledmerge.models.find import find_model
from ledmerge.run.plan import check_space, plan
from standin_hub import StandInHub

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2}
KILOBYTES = 150_000
"""More than the headers of a family, less than its smallest model."""
TOKENIZER = json.dumps({"model": {"vocab": {"x" * 400_000: 0}}}).encode()


def add_model(hub: StandInHub, name: str, tensors: dict[str, torch.Tensor]) -> str:
    """A model with each layer, and the rest, in a shard of its own."""
    shards: dict[str, dict[str, torch.Tensor]] = {}
    for tensor, value in tensors.items():
        part = tensor.split(".")[2] if ".layers." in tensor else "rest"
        shards.setdefault(f"model-{part}.safetensors", {})[tensor] = value
    places = {tensor: file for file, held in shards.items() for tensor in held}
    return hub.add(
        name,
        {
            "config.json": json.dumps(CONFIG).encode(),
            "tokenizer.json": TOKENIZER,
            "README.md": b"---\nlicense: mit\n---\n",
            "model.safetensors.index.json": json.dumps({"weight_map": places}).encode(),
            "pytorch_model.bin": b"never fetched",
            "model.gguf": b"never fetched",
            **{file: save(held, {"format": "pt"}) for file, held in shards.items()},
        },
    )


@pytest.fixture
def family(online_hub: StandInHub) -> dict[str, str]:
    """Commits of a base and two experts."""
    made = {"base": base_tensors(), "safety": expert_tensors(1), "math": expert_tensors(2)}
    return {name: add_model(online_hub, f"org/{name}", each) for name, each in made.items()}


LINEAR = {
    "merge_method": "ties",
    "base_model": "org/base",
    "models": [{"model": "org/safety"}, {"model": "org/math@main"}],
    "parameters": {"density": 0.5},
}


def write(folder: Path, *recipes: dict) -> Path:
    (folder / "recipe.yaml").write_text(yaml.safe_dump_all(recipes))
    return folder / "recipe.yaml"


def test_a_plan_costs_kilobytes(online_hub: StandInHub, family, tmp_path: Path):
    found = CliRunner().invoke(app, ["plan", str(write(tmp_path, LINEAR)), "--json"])
    facts = json.loads(found.stdout)
    assert facts["tensors"]["merged"] == 6
    weights = [
        len(data)
        for repository in online_hub.repositories.values()
        for name, data in repository.files.items()
        if name.endswith(".safetensors")
    ]
    assert facts["bytes_to_fetch"] == sum(weights) > 5 * KILOBYTES
    assert online_hub.total < KILOBYTES
    shown = CliRunner().invoke(app, ["plan", str(tmp_path / "recipe.yaml")])
    assert "from the hub" in shown.stdout


def test_info_costs_kilobytes(online_hub: StandInHub, family):
    found = ledmerge.info("org/base")
    assert found["revision"] == family["base"]
    assert found["tensors"] == 8
    assert found["vocabulary"]["rows"] == 457
    assert found["vocabulary"]["tokens"] is None
    assert online_hub.total < KILOBYTES


def test_a_comparison_fetches_its_weights_first(online_hub: StandInHub, family):
    progress, heard = listen()
    ledmerge.diff("org/base", "org/math", progress=progress)
    assert [what for what, *_ in heard] == ["fetch weights", "diff"]


def test_a_merge_fetches_weights_and_the_donors_files_alone(
    online_hub: StandInHub, family, tmp_path: Path
):
    record = ledmerge.merge(write(tmp_path, LINEAR), tmp_path / "out")
    assert record["revisions"] == {
        "org/base": family["base"],
        "org/safety": family["safety"],
        "org/math@main": family["math"],
    }
    assert not any(name.endswith((".bin", ".gguf")) for name in online_hub.served)
    held = [name for name in online_hub.served if name.endswith("tokenizer.json")]
    assert held == ["org/base/tokenizer.json"]
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == TOKENIZER
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == ["org/base", "org/safety", "org/math"]  # the hub refuses others
    for name in family:
        folder = tmp_path / name
        folder.mkdir()
        for file, data in online_hub.repositories[f"org/{name}"].files.items():
            (folder / file).write_bytes(data) if file[-4:] not in (".bin", "gguf") else None
    here = {**LINEAR, "base_model": "base", "models": [{"model": "safety"}, {"model": "math"}]}
    ledmerge.merge(write(tmp_path, here), tmp_path / "local")
    made, expected = read_all(tmp_path / "out"), read_all(tmp_path / "local")
    assert all(same(made[name], tensor) for name, tensor in expected.items())


def test_only_shards_with_tensors_that_are_needed_are_fetched(
    online_hub: StandInHub, family, tmp_path: Path
):
    slices = [
        {"sources": [{"model": "org/base", "layer_range": [0, 1]}]},
        {"sources": [{"model": "org/math", "layer_range": [0, 1]}]},
    ]
    given = {"merge_method": "passthrough", "slices": slices}
    ledmerge.merge(write(tmp_path, given), tmp_path / "out")
    cache = tmp_path / "hub-cache"
    fetched = {(p.parts[-4][-4:], p.name) for p in cache.rglob("snapshots/*/*.safetensors")}
    assert fetched == {
        ("base", "model-0.safetensors"),
        ("base", "model-rest.safetensors"),
        ("math", "model-0.safetensors"),
        ("math", "model-rest.safetensors"),  # for what stands behind the layers
    }


def test_an_interrupted_merge_goes_on_without_the_hub(
    online_hub: StandInHub, family, tmp_path: Path, monkeypatch
):
    def fail(*_: object) -> None:
        raise OSError("torn out")

    path = write(tmp_path, LINEAR)
    find_model("org/base").fetch()
    for name in family:
        find_model(f"org/{name}").card()
    with monkeypatch.context() as patch:
        patch.setattr("ledmerge.run.merged_folder.copy_sidecar", fail)
        with pytest.raises(OutputError):
            ledmerge.merge(path, tmp_path / "out")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    online_hub.is_down = True
    record = ledmerge.merge(path, tmp_path / "out", resume=True)
    assert record["revisions"]["org/math@main"] == family["math"]


def test_a_deep_check_takes_the_recorded_commits(online_hub: StandInHub, family, tmp_path: Path):
    steps = [
        {**LINEAR, "name": "step"},
        {
            "merge_method": "linear",
            "models": [
                {"model": "step", "parameters": {"weight": 1}},
                {"model": "org/base", "parameters": {"weight": 1}},
            ],
        },
    ]
    for out, recipe in (("one", [LINEAR]), ("two", steps)):
        record = ledmerge.merge(write(tmp_path, *recipe), tmp_path / out)
        assert record["revisions"].keys() == {"org/base", "org/safety", "org/math@main"}
    for name in family:
        repository = online_hub.repositories[f"org/{name}"]
        repository.commit({**repository.files, "config.json": b"{}", "model-0.safetensors": b""})
    for out in ("one", "two"):
        assert len(ledmerge.verify(tmp_path / out, deep=True)["deep"]) == 8


def add_adapter(hub: StandInHub, name: str, seed: int) -> str:
    """A LoRA of rank 2 on one matrix of org/base."""
    draw, place = torch.Generator().manual_seed(seed), "base_model.model.model.layers.0.attn"
    factors = {
        f"{place}.lora_A.weight": torch.randn(2, 9, generator=draw),
        f"{place}.lora_B.weight": torch.randn(33, 2, generator=draw),
    }
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": "org/base",
        "r": 2,
        "lora_alpha": 2,
        "target_modules": ["attn"],
    }
    files = {
        "adapter_config.json": json.dumps(settings).encode(),
        "adapter_model.safetensors": save(factors, {"format": "pt"}),
    }
    if name in hub.repositories:
        return hub.repositories[name].commit(files)
    return hub.add(name, files)


PAIR = {"path": "org/base", "lora": {"path": "org/lora", "revision": "main"}}
UNDER_ADAPTERS = {
    "on the base of the recipe": ("org/base", ["org/lora", "org/safety"]),
    "on a model": ("org/base", ["org/safety+org/lora", "org/math"]),
    "by its parts": ("org/base", [PAIR, "org/math"]),
    "on a base of its own": (None, ["org/lora", "org/math"]),
    "on a folder": ("org/base", ["safety+org/lora", "org/math"]),
}


@pytest.mark.parametrize("how", UNDER_ADAPTERS)
def test_a_deep_check_takes_the_commits_of_adapters(
    online_hub: StandInHub, family, tmp_path: Path, how: str
):
    adapter = add_adapter(online_hub, "org/lora", 1)
    write_model(tmp_path / "safety", expert_tensors(1), **CONFIG)
    base, models = UNDER_ADAPTERS[how]
    given = {
        "merge_method": "linear",
        "models": [{"model": model, "parameters": {"weight": 0.5}} for model in models],
        **({"base_model": base} if base else {}),
    }
    recipe = write(tmp_path, given)
    record = ledmerge.merge(recipe, tmp_path / "out")
    asked = "org/lora@main" if PAIR in models else "org/lora"
    assert record["revisions"][asked] == adapter
    assert all("+" not in name + commit for name, commit in record["revisions"].items())
    for name in family:
        repository = online_hub.repositories[f"org/{name}"]
        repository.commit({**repository.files, "model-0.safetensors": b""})
    add_adapter(online_hub, "org/lora", 2)
    assert len(ledmerge.verify(tmp_path / "out", deep=True)["deep"]) == 8
    assert len(ledmerge.verify(tmp_path / "out", deep=True, recipe=recipe)["deep"]) == 8


def test_a_full_cache_shows_before_anything_is_fetched(
    online_hub: StandInHub, family, tmp_path: Path, monkeypatch
):
    planned = plan(write(tmp_path, LINEAR))
    total = online_hub.total
    usage = type("Usage", (), {"free": planned.bytes_out + 10})
    monkeypatch.setattr("ledmerge.run.planned.shutil.disk_usage", lambda _: usage)
    check_space(planned, tmp_path / "out")
    fetched = sum(planned.unfetched().values())
    assert planned.problems == [
        f"{tmp_path}/out: the result and what is fetched for it need "
        f"{planned.bytes_out + fetched:,} bytes, {usage.free:,} are free; make room or write "
        "elsewhere"
    ]
    with pytest.raises(RecipeError, match="are free"):
        ledmerge.merge(tmp_path / "recipe.yaml", tmp_path / "out")
    assert online_hub.total - total < KILOBYTES
