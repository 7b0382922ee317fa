"""Folders of weights as people have them: whole, in shards, pickled, and wrong in every way."""

import gc
import json
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ledmerge.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ledmerge.errors import CheckpointError

TENSORS = {
    "a": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "b": torch.tensor(1.5),
    "c": torch.tensor([True, False, True]),
    "d": torch.empty(0, 4, dtype=torch.float16),
    "e": torch.arange(-3, 4),
}
SHARDS = {"model-1.safetensors": ["a", "b"], "model-2.safetensors": ["c", "d", "e"]}


def write_shards(folder: Path, **changes: object) -> Path:
    """A sharded checkpoint whose index has `changes`; a tensor's change to None drops it."""
    for file, names in SHARDS.items():
        save_file({name: TENSORS[name] for name in names}, folder / file)
    placed = {name: file for file, names in SHARDS.items() for name in names} | changes
    weight_map = {name: file for name, file in placed.items() if file is not None}
    write_index(folder, {"metadata": {}, "weight_map": weight_map})
    return folder


def write_index(folder: Path, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "model.safetensors.index.json").write_text(text)


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def read(checkpoint: Checkpoint, name: str, start: int = 0, stop: int | None = None) -> bytes:
    entry = checkpoint.entries[name]
    stop = entry.numel if stop is None else stop
    buffer = bytearray((stop - start) * entry.item_size)
    checkpoint.read_into(name, start, memoryview(buffer))
    return bytes(buffer)


def write_single(folder: Path) -> Path:
    save_file(TENSORS, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_pickle(folder: Path) -> Path:
    torch.save(TENSORS, folder / "pytorch_model.bin")
    return folder


def write_pickle_shards(folder: Path) -> Path:
    for number in "12":
        torch.save(
            {name: TENSORS[name] for name in SHARDS[f"model-{number}.safetensors"]},
            folder / f"pytorch_model-{number}.bin",
        )
    weight_map = {
        name: file.replace("model", "pytorch_model").replace("safetensors", "bin")
        for file, names in SHARDS.items()
        for name in names
    }
    text = json.dumps({"weight_map": weight_map})
    (folder / "pytorch_model.bin.index.json").write_text(text)
    return folder


@pytest.mark.parametrize("write", [write_single, write_shards, write_pickle, write_pickle_shards])
def test_every_form_gives_the_same_tensors(tmp_path: Path, write):
    with open_checkpoint(write(tmp_path)) as checkpoint:
        assert checkpoint.entries.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            assert checkpoint.entries[name].shape == tuple(tensor.shape)
            assert read(checkpoint, name) == as_bytes(tensor)
        assert read(checkpoint, "e", 2, 5) == as_bytes(TENSORS["e"][2:5])


@pytest.mark.parametrize("write", [write_shards, write_pickle_shards])
def test_a_pickled_copy_opens_files_of_its_own(tmp_path: Path, write):
    gc.collect()  # what other tests left open
    before = num_open_files()
    with open_checkpoint(write(tmp_path)) as checkpoint:
        assert read(checkpoint, "b") == as_bytes(TENSORS["b"])
        copy = pickle.loads(pickle.dumps(checkpoint))
    for name, tensor in TENSORS.items():
        assert read(copy, name) == as_bytes(tensor)
    del copy
    assert num_open_files() == before


def test_a_score_folder_has_its_own_stem(tmp_path: Path):
    save_file(TENSORS, tmp_path / "scores.safetensors")
    assert open_checkpoint(tmp_path, stem="scores").entries.keys() == TENSORS.keys()
    with pytest.raises(CheckpointError, match="no weights found; expected"):
        open_checkpoint(tmp_path)


def test_a_closed_checkpoint_opens_its_files_again(tmp_path: Path):
    before = num_open_files()
    checkpoint = open_checkpoint(write_shards(tmp_path))
    for _ in range(2):
        assert read(checkpoint, "b") == as_bytes(TENSORS["b"])
        checkpoint.close()
    assert num_open_files() == before


def test_a_file_cut_short_while_it_is_read_is_an_error(tmp_path: Path):
    checkpoint = open_checkpoint(write_single(tmp_path))
    os.truncate(tmp_path / "model.safetensors", checkpoint.entries["e"].offset + 8)
    with checkpoint, pytest.raises(CheckpointError, match="'e' ends early"):
        read(checkpoint, "e")


def test_a_missing_or_empty_folder_is_named(tmp_path: Path):
    with pytest.raises(CheckpointError, match="none: no such folder"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"no weights found; expected .*pytorch_model.bin"):
        open_checkpoint(tmp_path)


def test_two_checkpoints_in_one_folder_are_refused(tmp_path: Path):
    write_shards(write_single(tmp_path))
    with pytest.raises(CheckpointError, match=r"holds both .* remove the one that is stale"):
        open_checkpoint(tmp_path)


OUTSIDE = ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "x/"]
OUTSIDE += ["x\0y", "x\ud800", "x" * 5000, 3, ["x"]]


@pytest.mark.parametrize("file", OUTSIDE, ids=lambda file: repr(file)[:20])
def test_an_index_never_points_outside_its_folder(tmp_path: Path, file: object):
    save_file(TENSORS, tmp_path / "x.safetensors")  # what a path that is not refused would find
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    save_file(TENSORS, folder / "sub" / "x.safetensors")
    write_shards(folder, a=file)
    with pytest.raises(CheckpointError, match=r"index.json: 'a' points to .*not a file inside"):
        open_checkpoint(folder)


LIES = {
    "a tensor that is in no shard": ({"ghost": "model-1.safetensors"}, "'ghost' is not in model-1"),
    "a tensor placed in the other shard": ({"a": "model-2.safetensors"}, "'a' is not in model-2"),
    "a tensor left out": ({"a": None}, "does not place 'a' in model-1"),
    "a shard that is missing": ({"a": "model-3.safetensors"}, "missing shards: model-3"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_is_refused(tmp_path: Path, lie: str):
    changes, said = LIES[lie]
    with pytest.raises(CheckpointError, match=said) as caught:
        open_checkpoint(write_shards(tmp_path, **changes))
    assert str(caught.value).startswith(str(tmp_path))


LIES_OF_BIN = {
    "a tensor that is in no shard": ("ghost", "1", "'ghost' is not in pytorch_model-1.bin"),
    "a tensor placed in the other shard": ("a", "2", "'a' is not in pytorch_model-2.bin"),
    "a tensor in two shards": ("e", "1", "does not place 'e' in pytorch_model-2.bin"),
}


@pytest.mark.parametrize("lie", LIES_OF_BIN)
def test_an_index_of_bin_files_that_lies_is_refused(tmp_path: Path, lie: str):
    name, number, said = LIES_OF_BIN[lie]
    index = write_pickle_shards(tmp_path) / "pytorch_model.bin.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    if "two" in lie:
        held = torch.load(tmp_path / "pytorch_model-1.bin") | {name: TENSORS[name]}
        torch.save(held, tmp_path / "pytorch_model-1.bin")
    placed = weight_map | {name: f"pytorch_model-{number}.bin"}
    index.write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(tmp_path)


def test_an_index_of_bin_files_may_leave_a_tensor_out(tmp_path: Path):
    index = write_pickle_shards(tmp_path) / "pytorch_model.bin.index.json"
    weight_map = json.loads(index.read_text())["weight_map"]
    del weight_map["e"]
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert open_checkpoint(tmp_path).entries.keys() == TENSORS.keys()


BROKEN = {
    "nothing": "",
    "not JSON": "{",
    "no map": "{}",
    "a list for a map": '{"weight_map": ["a"]}',
    "a list": "[]",
    "deep": "[" * 200_000,
    "empty map": '{"weight_map": {}}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_index_is_refused_by_name(tmp_path: Path, content: str):
    write_index(write_shards(tmp_path), content)
    with pytest.raises(CheckpointError, match=r"index.json: (not a shard index|lists no tensor)"):
        open_checkpoint(tmp_path)


def test_a_damaged_shard_is_named(tmp_path: Path):
    os.truncate(write_shards(tmp_path) / "model-2.safetensors", 100)
    with pytest.raises(CheckpointError, match=r"model-2.safetensors: .*fetch"):
        open_checkpoint(tmp_path)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path):
    proof = tmp_path / "ran"
    evil = type("Evil", (), {"__reduce__": lambda _: (os.mkdir, (str(proof),))})()
    torch.save({"a": evil}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: .*convert it to safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(evil))
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: .*convert it to safetensors"):
        open_checkpoint(tmp_path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(evil))
    assert proof.exists()  # it is a working attack


def write_zip(path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")


NO_STATE = {
    "a list": lambda path: torch.save([torch.ones(2)], path),
    "numbers": lambda path: torch.save({"a": 1}, path),
    "complex numbers": lambda path: torch.save({"a": torch.ones(2, dtype=torch.complex64)}, path),
    "a sparse tensor": lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path),
    "a name that is no text": lambda path: torch.save({1: torch.ones(2)}, path),
    "an old file": lambda path: torch.save(
        {"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False
    ),
    "nothing": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "an empty archive": lambda path: write_zip(path, b""),
    "an archive cut short": lambda path: write_zip(path, pickle.dumps({"a": [1, 2]})[:-3]),
    "an archive of stray opcodes": lambda path: write_zip(path, b"\x80\x02a."),
    "an archive of a stray pop": lambda path: write_zip(path, b"\x80\x02h\x05."),
}


@pytest.mark.parametrize("write", NO_STATE.values(), ids=NO_STATE)
def test_a_pickle_that_is_no_plain_set_of_tensors_is_refused(tmp_path: Path, write):
    write(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: "):
        open_checkpoint(tmp_path)


def test_views_in_a_pickle_are_read_as_they_look(tmp_path: Path):
    whole = torch.arange(12.0).view(3, 4)
    state = {"t": whole.T, "row": torch.nn.Parameter(whole[1])}
    torch.save(state, tmp_path / "pytorch_model.bin")
    with open_checkpoint(tmp_path) as checkpoint:
        assert read(checkpoint, "t", 3, 9) == as_bytes(whole.T.reshape(-1)[3:9])
        assert read(checkpoint, "row") == as_bytes(whole[1])


def test_a_folder_of_gguf_is_refused_with_what_to_do(tmp_path: Path):
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"holds model-q4.gguf .* merge the safetensors"):
        open_checkpoint(tmp_path)


def test_pickled_shards_are_mapped_one_at_a_time(tmp_path: Path):
    def mapped() -> set[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line.rpartition("/")[2] for line in lines if str(tmp_path) in line}

    with open_checkpoint(write_pickle_shards(tmp_path)) as checkpoint:
        assert mapped() == set()
        for name, file in (("a", "1"), ("c", "2"), ("b", "1")):
            assert read(checkpoint, name) == as_bytes(TENSORS[name])
            assert mapped() == {f"pytorch_model-{file}.bin"}
    assert mapped() == set()
