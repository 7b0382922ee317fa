"""Folders uploaded to the stand-in hub: what is there afterwards, and what is refused before."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from families import recipe, same, write_family
from safetensors.torch import load, save_file
from typer.testing import CliRunner

import ledmerge
from ledmerge.cli.app import app
from ledmerge.errors import CheckpointError, OutputError, RecipeError
from ledmerge.models.find import find_model
from standin_hub import TOKEN, StandInHub

# The hub's library uploads in a way that its HTTP library advises against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A merge in three shards."""
    _, safety, math, _ = write_family(tmp_path)
    (safety / "generation_config.json").write_text("{}")
    ledmerge.merge(recipe("linear", None, safety, math), tmp_path / "out", shard_size=100_000)
    return tmp_path / "out"


@pytest.fixture
def token(monkeypatch, online_hub: StandInHub) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


def test_a_merge_goes_up_whole_and_comes_back(
    online_hub: StandInHub, token, out: Path, tmp_path: Path
):
    done = ledmerge.push(out, "me/merged", message="The first")
    repository = online_hub.repositories["me/merged"]
    assert done["private"]
    assert repository.private
    assert done["url"] == f"{online_hub.url}/me/merged/commit/{repository.refs['main']}"
    on_disk = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert repository.files.keys() - {".gitattributes"} == on_disk == {*done["files"]}
    assert repository.messages[-1] == "The first"
    for name in on_disk - {"ledmerge.json", "README.md"}:  # these name the models by path
        assert repository.files[name] == (out / name).read_bytes()
    back = tmp_path / "back"
    shutil.copytree(find_model("me/merged").fetch(), back)
    found = ledmerge.verify(back)
    assert (found["tensors"], found["files"]) == (8, 2)  # no file but record and card is changed


def test_the_record_goes_up_without_paths_of_this_machine(
    online_hub: StandInHub, token, out: Path, tmp_path: Path
):
    ledmerge.push(out, "me/merged")
    sent = json.loads(online_hub.repositories["me/merged"].files["ledmerge.json"])
    kept = json.loads((out / "ledmerge.json").read_text())
    assert "recipe_folder" not in sent
    assert [each["model"] for each in sent["inputs"]] == ["safety", "math"]
    assert not any("path" in each for each in sent["inputs"])
    assert sent["tensors"] == kept["tensors"]
    assert kept["inputs"][0]["path"] == str(tmp_path / "safety")


def test_nothing_that_goes_up_says_where_a_model_lay(online_hub: StandInHub, token, tmp_path: Path):
    home = tmp_path / "dépôt of mine"  # written in escapes and folded in YAML
    base, safety, math, _ = write_family(home)
    step = recipe("linear", None, safety, math, name="half")
    result = recipe("ties", base, Path("half"), safety)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump_all([step, result]))
    ledmerge.merge(tmp_path / "recipe.yaml", tmp_path / "out")
    ledmerge.push(tmp_path / "out", "me/merged")
    sent = online_hub.repositories["me/merged"].files
    for name in ("ledmerge.json", "README.md"):
        text = sent[name].decode()
        assert str(tmp_path) not in text
        assert "of mine" not in text
    record = json.loads(sent["ledmerge.json"])
    assert record["recipe"]["base_model"] == "base"
    assert [each["model"] for each in record["steps"][0]["models"]] == ["safety", "math"]
    assert "base_model: base\n" in sent["README.md"].decode()
    assert str(tmp_path) in (tmp_path / "out" / "README.md").read_text()


def test_an_adapter_names_a_base_of_this_machine_by_its_folder(
    online_hub: StandInHub, token, tmp_path: Path
):
    for number, base in enumerate(("org/base", str(tmp_path / "base"))):
        folder = tmp_path / f"lora{number}"
        folder.mkdir()
        save_file({"base_model.model.w": torch.zeros(2)}, folder / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "base_model_name_or_path": base}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        extracted = {"base": base, "expert": str(tmp_path / "expert")}
        (folder / "ledmerge.json").write_text(json.dumps({"format": 1, "extracted": extracted}))
        ledmerge.push(folder, f"me/{folder.name}")
    first, second = (online_hub.repositories[f"me/lora{number}"].files for number in range(2))
    config = "adapter_config.json"
    assert first[config] == (tmp_path / "lora0" / config).read_bytes()
    assert json.loads(second[config])["base_model_name_or_path"] == "base"
    extracted = json.loads(second["ledmerge.json"])["extracted"]
    assert extracted == {"base": "base", "expert": "expert"}


def test_only_weights_of_the_model_are_taken_out(online_hub: StandInHub, token, out: Path):
    others = ("onnx/model.bin", "masks/a.safetensors", "vision.safetensors", "training_args.bin")
    stale = ("model.safetensors", "pytorch_model-00001-of-00002.bin", "adapter_model.bin")
    online_hub.add("me/merged", dict.fromkeys((*others, *stale), b"x"))
    assert ledmerge.push(out, "me/merged")["deleted"] == sorted(stale)
    assert online_hub.repositories["me/merged"].files.keys() >= {*others}


def test_weights_of_before_do_not_stay_beside_the_new(
    online_hub: StandInHub, token, out: Path, tmp_path: Path
):
    ledmerge.push(out, "me/merged")
    ledmerge.convert(out, tmp_path / "single")
    repository = online_hub.repositories["me/merged"]
    done = ledmerge.push(tmp_path / "single", "me/merged")
    assert done["deleted"] == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
        "model.safetensors.index.json",
    ]
    weights = [name for name in repository.files if name.endswith(".safetensors")]
    assert weights == ["model.safetensors"]
    tensors = load(repository.files["model.safetensors"])
    expected = find_model(out).checkpoint
    assert all(same(value.float(), expected.read(n)) for n, value in tensors.items())


def test_a_branch_is_made_where_it_is_not_there(online_hub: StandInHub, token, out: Path):
    online_hub.add("me/merged", {"README.md": b"mine"})
    done = ledmerge.push(out, "me/merged", revision="trial")
    repository = online_hub.repositories["me/merged"]
    assert repository.refs["trial"] == done["commit"] != repository.refs["main"]
    assert repository.files == {"README.md": b"mine"}
    assert not done["private"]


def test_the_command_prints_where_it_went(online_hub: StandInHub, token, out: Path):
    ran = CliRunner().invoke(app, ["push", str(out), "me/merged", "--public"])
    assert ran.exit_code == 0
    commit = online_hub.repositories["me/merged"].refs["main"]
    assert ran.stdout == f"uploaded to {online_hub.url}/me/merged/commit/{commit} (public)\n"
    assert not online_hub.repositories["me/merged"].private
    ran = CliRunner().invoke(app, ["push", str(out), "me/merged", "--json"])
    assert json.loads(ran.stdout)["private"] is False


def test_an_adapter_goes_up(online_hub: StandInHub, token, tmp_path: Path):
    folder = tmp_path / "lora"
    folder.mkdir()
    save_file({"base_model.model.w": torch.zeros(2)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (folder / "config.json").write_text("{}")  # as some programs leave the base's beside it
    ledmerge.push(folder, "me/lora")
    assert "adapter_model.safetensors" in online_hub.repositories["me/lora"].files


def test_what_the_hub_refuses_is_told(online_hub: StandInHub, out: Path, monkeypatch):
    with pytest.raises(OutputError, match=r"needs a token; make one with write access at .*HF_TOK"):
        ledmerge.push(out, "me/merged")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(OutputError, match="the token may not write to me"):
        ledmerge.push(out, "me/merged")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(OutputError, match="the token may not write to others"):
        ledmerge.push(out, "others/merged")
    online_hub.add("me/open", {})
    with pytest.raises(OutputError, match=r"is there and public; .* leave --private out"):
        ledmerge.push(out, "me/open", visibility="private")
    online_hub.is_down = True
    with pytest.raises(
        OutputError, match=r"look whether .* can be reached \(HF_ENDPOINT, a proxy\)$"
    ):
        ledmerge.push(out, "me/merged")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OutputError, match="unset it to upload"):
        ledmerge.push(out, "me/merged")
    with pytest.raises(RecipeError, match="expected owner/name"):
        ledmerge.push(out, "merged")


@pytest.mark.parametrize("name", ["me/hidden", "nobody/merged"])
def test_a_repository_that_the_hub_does_not_find_is_told(
    online_hub: StandInHub, token, out: Path, name: str
):
    """It is there, but not for this token; or nobody has that name."""
    online_hub.add("me/hidden", {}, hidden=True)
    with pytest.raises(OutputError) as raised:
        ledmerge.push(out, name)
    said, owner = str(raised.value), name.partition("/")[0]
    assert said.startswith(f"{name}: cannot be uploaded (")
    assert "404" in said
    assert said.endswith(
        f"; the hub finds no such place, or hides it from this token: check the name, and that "
        f"the token has write access to {owner} ({online_hub.url}/settings/tokens)"
    )


def test_what_is_not_whole_is_not_sent(online_hub: StandInHub, token, out: Path, tmp_path: Path):
    def cut(folder: Path) -> None:
        file = folder / "model-00002-of-00003.safetensors"
        file.write_bytes(file.read_bytes()[:-1])

    def rename(folder: Path) -> None:
        record = json.loads((folder / "ledmerge.json").read_text())
        record["tensors"]["ghost"] = record["tensors"].pop("model.ids")
        (folder / "ledmerge.json").write_text(json.dumps(record))

    for damage, said in (
        (cut, "truncated"),
        (rename, "2 tensors do not match its record, among them 'ghost', which is not in the weig"),
        (lambda folder: (folder / "model-00001-of-00003.safetensors").unlink(), "missing shards"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: folder.rename(folder.parent / ".damaged.partial"), "is not finished"),
    ):
        shutil.copytree(out, tmp_path / "damaged")
        damage(tmp_path / "damaged")
        with pytest.raises(CheckpointError, match=said):
            ledmerge.push(tmp_path / "damaged", "me/merged")
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
    with pytest.raises(CheckpointError, match="is not finished"):
        ledmerge.push(tmp_path / ".damaged.partial", "me/merged")
    with pytest.raises(CheckpointError, match="no such folder"):
        ledmerge.push(tmp_path / "nothing", "me/merged")
    assert "me/merged" not in online_hub.repositories
