"""What goes along with the weights: everything but weights, hidden files and our own."""

import json
from pathlib import Path

import pytest
import torch

from ledmerge.checkpoint.files import Files
from ledmerge.models.find import find_model
from ledmerge.models.sidecar import copy_sidecar, sidecar_files

GOES = [
    "LICENSE",
    "chat_template.jinja",
    "generation_config.json",
    "modeling_own.py",
    "preprocessing/extra/vocab.txt",
    "tokenizer.json",
    "tokenizer.model",
]
STAYS = [
    ".gitattributes",
    ".cache/huggingface/download.lock",
    "README.md",
    "adapter_config.json",
    "journal.jsonl",
    "ledmerge.json",
    "scores.json",
    "model-00001-of-00002.safetensors",
    "model.safetensors.index.json",
    "onnx/model.onnx",
    "optimizer.pt",
    "original/consolidated.00.pth",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "q4.gguf",
]


def write(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


@pytest.fixture
def donor(write_model) -> Path:
    folder = write_model("donor", {"w": torch.ones(2)})
    write(folder, GOES + STAYS)
    for name in ("model.safetensors.index.json", "adapter_config.json"):  # not of this model
        (folder / name).unlink()
    return folder


def test_everything_but_weights_hidden_files_and_ours_goes_along(donor: Path):
    write(donor, ["model.safetensors.index.json", "adapter_config.json"])
    assert [str(path) for path in sidecar_files(Files(donor))] == GOES


def test_files_are_copied_with_their_folders(donor: Path, tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    copy_sidecar(find_model(donor), out, None)
    found = sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())
    assert found == sorted([*GOES, "config.json"])
    assert all((out / name).read_text() == name for name in GOES)
    assert json.loads((out / "config.json").read_text()) == json.loads(
        (donor / "config.json").read_text()
    )


def test_links_into_the_hubs_cache_become_files(donor: Path, tmp_path: Path):
    (tmp_path / "blob").write_text("merges")
    (donor / "merges.txt").symlink_to(tmp_path / "blob")
    out = tmp_path / "out"
    out.mkdir()
    copy_sidecar(find_model(donor), out, None)
    assert not (out / "merges.txt").is_symlink()
    assert (out / "merges.txt").read_text() == "merges"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"torch_dtype": "float32"}, {"torch_dtype": "bfloat16"}),
        ({"dtype": "float32"}, {"dtype": "bfloat16"}),
        ({"dtype": "a", "torch_dtype": "b"}, {"dtype": "bfloat16", "torch_dtype": "bfloat16"}),
        ({}, {"torch_dtype": "bfloat16"}),
        (
            {"dtype": "a", "text_config": {"dtype": "a", "n": 1}, "vision_config": {"n": 2}},
            {
                "dtype": "bfloat16",
                "text_config": {"dtype": "bfloat16", "n": 1},
                "vision_config": {"n": 2},
            },
        ),
    ],
)
def test_the_config_says_the_dtype_wherever_it_said_one(tmp_path: Path, before: dict, after: dict):
    (tmp_path / "config.json").write_text(json.dumps(before))
    out = tmp_path / "out"
    out.mkdir()
    model = find_model(tmp_path)
    copy_sidecar(model, out, "bfloat16")
    assert json.loads((out / "config.json").read_text()) == after
    assert model.config == before  # the donor's own is not changed
