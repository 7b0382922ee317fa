"""New checkpoints: the safetensors library reads what we write, bit for bit, in any layout."""

import errno
import json
import os
import pickle
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ledmerge.checkpoint import layout
from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, open_checkpoint
from ledmerge.checkpoint.flush import _load as load
from ledmerge.checkpoint.flush import begin_flush
from ledmerge.checkpoint.header import ITEM_SIZES
from ledmerge.checkpoint.layout import NewTensor, Shard, ShardWriter, lay_out, weight_index
from ledmerge.errors import OutputError

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
TENSORS = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(ITEM_SIZES)), SHAPES),
    max_size=6,
)


def contents(tensors: list[NewTensor], seed: int) -> dict[str, bytes]:
    bits = random.Random(seed)
    return {
        t.name: bytes(bits.randrange(2 if t.dtype == "BOOL" else 256) for _ in range(t.nbytes))
        for t in tensors
    }


def write(shards: list[Shard], data: dict[str, bytes], seed: int) -> None:
    """All contents, in blocks of at most seven entries and in no order."""
    writer = ShardWriter(shards)
    places = [(e, i) for e in writer.entries.values() for i in range(0, e.numel, 7)]
    random.Random(seed).shuffle(places)
    for entry, i in places:
        begin, end = i * entry.item_size, (i + 7) * entry.item_size
        writer.write(entry.name, i, memoryview(data[entry.name])[begin:end])
    writer.close()


@settings(max_examples=30, deadline=None)
@given(found=TENSORS, shard_size=st.integers(0, 300), seed=st.integers(0, 99))
def test_any_layout_is_read_back_bit_for_bit(
    found: dict[str, tuple[str, tuple[int, ...]]], shard_size: int, seed: int
):
    tensors = [NewTensor(name, dtype, shape) for name, (dtype, shape) in found.items()]
    data = contents(tensors, seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        shards = lay_out(folder, tensors, shard_size, {"format": "pt"})
        write(shards, data, seed)
        if len(shards) > 1:
            (folder / "model.safetensors.index.json").write_bytes(weight_index(shards))

        for shard in shards:
            assert shard.path.stat().st_size == shard.nbytes
            assert len(shard.entries) <= 1 or sum(e.nbytes for e in shard.entries) <= shard_size
            assert all(entry.offset % entry.item_size == 0 for entry in shard.entries)
        theirs = {k: v for shard in shards for k, v in load_file(shard.path).items()}
        assert theirs.keys() == data.keys()
        for new in tensors:
            tensor = theirs[new.name]
            assert (tensor.dtype, tuple(tensor.shape)) == (TORCH_DTYPES[new.dtype], new.shape)
            assert tensor.reshape(-1).view(torch.uint8).numpy().tobytes() == data[new.name]
        with open_checkpoint(folder) as ours:
            for new in tensors:
                buffer = bytearray(new.nbytes)
                ours.read_into(new.name, 0, memoryview(buffer))
                assert bytes(buffer) == data[new.name]


def test_shards_are_named_and_indexed_as_transformers_expects(tmp_path: Path):
    tensors = [NewTensor(name, "F32", (2,)) for name in "abc"]
    shards = lay_out(tmp_path, tensors, 16, {})
    assert [shard.path.name for shard in shards] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert json.loads(weight_index(shards)) == {
        "metadata": {"total_size": 24},
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00001-of-00002.safetensors",
            "c": "model-00002-of-00002.safetensors",
        },
    }
    (whole,) = lay_out(tmp_path, tensors, 24, {})
    assert whole.path.name == "model.safetensors"


def test_opening_reserves_the_space_and_keeps_what_is_there(tmp_path: Path):
    shards = lay_out(tmp_path, [NewTensor("w", "U8", (100_000,))], 10**9, {})
    writer = ShardWriter(shards)
    stat = shards[0].path.stat()
    assert stat.st_size == shards[0].nbytes
    assert stat.st_blocks * 512 >= 100_000
    writer.write("w", 99_999, memoryview(b"\x07"))
    writer.close()
    ShardWriter(shards).close()
    assert shards[0].path.read_bytes()[-1] == 7


def test_a_file_of_another_size_is_made_anew(tmp_path: Path):
    shards = lay_out(tmp_path, [NewTensor("w", "U8", (10,))], 10**9, {})
    shards[0].path.write_bytes(b"\xff" * 1000)
    ShardWriter(shards).close()
    assert shards[0].path.read_bytes() == shards[0].header + bytes(10)


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_full_disk_shows_on_opening_and_leaves_no_file_open(tmp_path: Path, monkeypatch):
    def no_room(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shards = lay_out(tmp_path, [NewTensor("w", "U8", (10,))], 10**9, {})
    before = num_open_files()
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(OutputError, match=r"model.safetensors: cannot be written \(No space left"):
        ShardWriter(shards)
    assert num_open_files() == before


def test_where_no_space_can_be_reserved_a_file_has_its_size_all_the_same(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    (shard,) = lay_out(tmp_path, [NewTensor("w", "U8", (10,))], 10**9, {})
    writer = ShardWriter([shard])
    writer.write("w", 8, memoryview(b"12"))
    writer.close()
    assert shard.path.read_bytes() == shard.header + bytes(8) + b"12"


def test_a_pickled_writer_writes_into_the_same_files_and_reserves_none(tmp_path: Path):
    new = [NewTensor("a", "U8", (4,)), NewTensor("b", "U8", (4,))]
    shards = lay_out(tmp_path, new, 4, {})
    writer = ShardWriter(shards)
    writer.write("a", 0, memoryview(b"1234"))
    writer.settle()
    copy = pickle.loads(pickle.dumps(writer))
    copy.write("b", 1, memoryview(b"678"))
    copy.settle()
    writer.write("b", 0, memoryview(b"5"))
    writer.close()
    found = {name: tensor for shard in shards for name, tensor in load_file(shard.path).items()}
    assert {n: bytes(t.tolist()) for n, t in found.items()} == {"a": b"1234", "b": b"5678"}
    shards[0].path.unlink()
    with pytest.raises(OutputError, match="cannot be written"):
        copy.write("a", 0, memoryview(b"9"))
    assert not shards[0].path.exists()


def test_bytes_are_on_their_way_to_the_disk_before_the_end(tmp_path: Path, monkeypatch):
    flushed: list[int] = []
    monkeypatch.setattr(layout, "begin_flush", flushed.append)
    monkeypatch.setattr(layout, "FLUSHED", 16)
    (shard,) = lay_out(tmp_path, [NewTensor("a", "F32", (10,))], 1000, {})
    writer = ShardWriter([shard])
    told = []
    for start in range(0, 10, 2):
        writer.write("a", start, memoryview(bytes(8)))
        told.append(len(flushed))
    writer.close()
    assert told == [0, 1, 1, 2, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="the call is Linux's")
def test_flushing_is_begun_without_a_complaint_of_the_system(tmp_path: Path):
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(bytes(5000))
        assert begin_flush(file.fileno()) == 0


def test_where_no_flushing_can_be_begun_nothing_is(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("Linux's call is looked for"))
    assert load()(-1) is None
