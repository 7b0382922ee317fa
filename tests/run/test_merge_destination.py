"""What a merge leaves on the disk, and what it leaves alone there."""

import fcntl
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from families import files_of, listen, recipe, spoil, write_family
from safetensors.torch import save_file

import ledmerge
from ledmerge.checkpoint.layout import WEIGHTS
from ledmerge.errors import LedmergeError, OutputError, RecipeError


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> list[Path]:
    return write_family(tmp_path_factory.mktemp("family"))


def linear(family: list[Path]) -> dict:
    return recipe("linear", *family[:3])


def slerp(family: list[Path]) -> dict:
    return recipe("slerp", *family[:2], parameters={"t": 0.3})


def test_a_destination_that_is_taken_is_left_alone(family, tmp_path: Path):
    given, out = linear(family), tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match=r"out: exists; choose another name, or --overwrite"):
        ledmerge.merge(given, out)
    with pytest.raises(OutputError, match=r"not made by ledmerge \(no ledmerge.json\)"):
        ledmerge.merge(given, out, overwrite=True)
    assert files_of(out) == {"thesis.tex": b"x"}


def test_overwrite_replaces_the_whole_folder(family, tmp_path: Path):
    out = tmp_path / "out"
    first = ledmerge.merge(linear(family), out, shard_size=0)
    with pytest.raises(OutputError, match="exists"):
        ledmerge.merge(slerp(family), out)
    assert json.loads((out / "ledmerge.json").read_text()) == first
    ledmerge.merge(slerp(family), out, overwrite=True)
    assert files_of(out).keys() == {
        "README.md",
        "config.json",
        "ledmerge.json",
        "model.safetensors",
    }


def test_overwrite_spares_what_somebody_put_there(family, tmp_path: Path):
    base = shutil.copytree(family[0], tmp_path / "base")
    for name in ("tokenizer.json", "chat_template.jinja", "modeling_own.py", "assets/logo.png"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("x")
    given, out = recipe("linear", base, *family[1:3]), tmp_path / "out"
    ledmerge.merge(given, out, shard_size=0)
    ledmerge.merge(given, out, overwrite=True)  # whatever the base gave is ours
    written = files_of(out)
    listed = json.loads(written["ledmerge.json"])["written"]
    assert {*listed} - {*WEIGHTS} == written.keys() - {"model.safetensors"}
    (out / "model-final.safetensors").write_text("x")
    with pytest.raises(OutputError, match=r"out: holds model-final.safetensors, which ledmerge"):
        ledmerge.merge(given, out, overwrite=True)
    (out / "model-final.safetensors").rename(out / "notes.md")
    said = r"out: holds notes.md, which ledmerge did not write .*; move it away, or choose another"
    for how in ({"overwrite": True}, {"overwrite": True, "resume": True, "keep_card": True}):
        progress, heard = listen()
        with pytest.raises(OutputError, match=said):
            ledmerge.merge(given, out, progress=progress, **how)
        assert not any(isinstance(each, tuple) for each in heard)  # nothing but notes
    for name in ("a.md", "results/b.json", "c.md"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text("x")
    with pytest.raises(OutputError, match=r"holds a.md, c.md, notes.md and 1 more, which"):
        ledmerge.merge(given, out, overwrite=True)
    assert files_of(out).keys() == {*written, "notes.md", "a.md", "results/b.json", "c.md"}


@pytest.mark.parametrize("record", ["old", "damaged"])
def test_a_folder_whose_record_lists_no_files_is_told_by_usual_names(
    family, tmp_path: Path, record: str
):
    base = shutil.copytree(family[0], tmp_path / "base")
    for name in ("tokenizer.json", "generation_config.json", "modeling_own.py", "LICENSE"):
        (base / name).write_text("x")
    given, out = recipe("linear", base, *family[1:3]), tmp_path / "out"
    for stranger in (False, True):
        ledmerge.merge(given, out, shard_size=0)
        found = json.loads((out / "ledmerge.json").read_text())
        del found["written"]
        (out / "ledmerge.json").write_text(json.dumps(found) if record == "old" else "{")
        if stranger:
            (out / "notes.md").write_text("x")
        with pytest.raises(OutputError, match=r"notes.md") if stranger else nullcontext():
            ledmerge.merge(given, out, overwrite=True)
        if not stranger:
            shutil.rmtree(out)


@pytest.mark.parametrize("record", ["listing", "old"])
@pytest.mark.parametrize(
    ("shard_size", "name", "holds"),
    [
        (10**9, "model-00001-of-00009.safetensors", "other tensors"),
        (10**9, "model-00001-of-00009.safetensors", "tensors of the same names"),
        (10**9, "model-00001-of-00009.safetensors", "nothing that can be read"),
        (10**9, "model.safetensors", "other tensors"),
        (0, "model.safetensors", "other tensors"),
        (0, "model.safetensors", "tensors of the same names"),
        (0, "model-00001-of-00009.safetensors", "tensors of the same names"),
    ],
)
def test_overwrite_spares_weights_that_a_merge_did_not_write(
    family, tmp_path: Path, record: str, shard_size: int, name: str, holds: str
):
    out = tmp_path / "out"
    ledmerge.merge(linear(family), out, shard_size=shard_size)
    if record == "old":
        found = json.loads((out / "ledmerge.json").read_text())
        del found["written"]
        (out / "ledmerge.json").write_text(json.dumps(found))
    if holds == "other tensors":
        save_file({"other": torch.ones(3)}, out / name)
    elif holds == "tensors of the same names":
        shutil.copyfile(family[1] / "model.safetensors", out / name)
    else:
        (out / name).write_text("version https://git-lfs.github.com/spec/v1")
    before = files_of(out)
    with pytest.raises(OutputError, match=rf"out: holds {name}, which ledmerge did not write"):
        ledmerge.merge(slerp(family), out, overwrite=True)
    assert files_of(out) == before


@pytest.mark.parametrize("lost", ["a shard", "the index", "the end of a shard", "nothing"])
def test_overwrite_replaces_a_merge_that_was_damaged(family, tmp_path: Path, lost: str):
    out = tmp_path / "out"
    ledmerge.merge(linear(family), out, shard_size=0)
    shard = max(out.glob("model-*.safetensors"))
    if lost == "a shard":
        shard.unlink()
    elif lost == "the index":
        (out / "model.safetensors.index.json").unlink()
    elif lost == "the end of a shard":
        os.truncate(shard, shard.stat().st_size // 2)
    else:  # a copy is no loss
        shutil.copyfile(shard, out / "model-00001-of-00009.safetensors")
    ledmerge.merge(slerp(family), out, overwrite=True)
    assert [path.name for path in out.glob("*.safetensors")] == ["model.safetensors"]


def test_two_merges_into_one_folder_do_not_mix(family, tmp_path: Path):
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    descriptor = os.open(partial, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # as a running merge holds it
    with pytest.raises(OutputError, match="another process is writing this folder"):
        ledmerge.merge(linear(family), tmp_path / "out", overwrite=True)
    os.close(descriptor)


WRONG_CALLS = {
    "no such device": ({"device": "toaster"}, "device: found 'toaster', expected auto"),
    "too little memory": ({"memory": 1000, "threads": 2}, "--memory 1,000 bytes is too small"),
}


@pytest.mark.parametrize("call", WRONG_CALLS)
def test_a_wrong_call_leaves_nothing_behind(family, tmp_path: Path, call: str):
    how, said = WRONG_CALLS[call]
    with pytest.raises(RecipeError, match=said):
        ledmerge.merge(linear(family), tmp_path / "out", **how)
    assert list(tmp_path.iterdir()) == []


def test_options_that_cannot_work_together_leave_nothing_behind(family, tmp_path: Path):
    given = recipe("linear", None, *family[1:3], own=[{"weight": 1}, {"weight": -1}])
    with pytest.raises(RecipeError, match="the weights sum to 0"):
        ledmerge.merge(given, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_merge_leaves_no_file_open(family, tmp_path: Path):
    def num_open_files() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = num_open_files()
    ledmerge.merge(linear(family), tmp_path / "out", shard_size=0)
    assert num_open_files() == before
    bad = spoil(write_family(tmp_path)[1], "model.layers.1.scale", float("nan"))
    with pytest.raises(LedmergeError):
        ledmerge.merge(recipe("linear", None, bad), tmp_path / "bad")
    assert num_open_files() == before


def test_a_merge_inside_a_model_is_refused(family, tmp_path: Path):
    base, *experts = family
    with pytest.raises(OutputError, match="lies inside the model"):
        ledmerge.merge(recipe("linear", base, *experts), base / "sub")
    assert not (base / "sub").exists()


def test_a_destination_that_is_a_mounted_disk_is_refused(family, tmp_path: Path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    for how in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError, match=f"{out}: is the root of a disk.* such as {out}/out"):
            ledmerge.merge(linear(family), out, **how)
    assert not list(out.iterdir())


def test_a_destination_may_be_named_by_a_roundabout_path(family, tmp_path: Path, monkeypatch):
    ledmerge.merge(linear(family), tmp_path / "nowhere" / ".." / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    monkeypatch.chdir(tmp_path / "out")  # a model, which is not written into
    for shortcut in ("..", "../out/.."):
        ledmerge.merge(slerp(family), Path(shortcut) / "beside", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "out"]
    with pytest.raises(OutputError, match="a folder with a name is needed"):
        ledmerge.merge(slerp(family), "..", overwrite=True)


def test_a_destination_may_be_a_link_to_a_folder(family, tmp_path: Path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk" / "out")
    for given, how in ((linear(family), {}), (slerp(family), {"overwrite": True})):
        ledmerge.merge(given, link, **how)
        assert link.is_symlink()
        assert ledmerge.verify(link)["tensors"] > 0
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["out"]
    with pytest.raises(OutputError, match=r"disk/out: exists; choose another name"):
        ledmerge.merge(linear(family), link)
    (tmp_path / "inside").symlink_to(tmp_path / "disk" / "out")
    with pytest.raises(OutputError, match="lies inside the model"):
        ledmerge.merge(linear(family), tmp_path / "inside" / "sub")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(OutputError, match="exists and is not a folder"):
        ledmerge.merge(linear(family), tmp_path / "circle")
