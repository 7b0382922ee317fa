"""Digests: of contents, not of files; remembered for as long as the files stay as they are."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ledmerge.checkpoint import digest
from ledmerge.checkpoint.checkpoint import open_checkpoint
from ledmerge.checkpoint.layout import NewTensor, ShardWriter, lay_out, weight_index
from ledmerge.errors import OutputError

TENSORS = {
    "long": torch.randn(70_001, generator=torch.Generator().manual_seed(0)).bfloat16(),
    "scalar": torch.tensor(2.0),
    "none": torch.empty(3, 0),
}


def digest_of(folder: Path) -> str:
    with open_checkpoint(folder) as checkpoint:
        digests = digest.digest_tensors(checkpoint)
        return digest.checkpoint_digest(checkpoint.entries.values(), digests)


def write(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_sharded(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    names = {torch.bfloat16: "BF16", torch.float32: "F32"}
    new = [NewTensor(n, names[t.dtype], tuple(t.shape)) for n, t in reversed(tensors.items())]
    shards = lay_out(folder, new, 1, {})
    writer = ShardWriter(shards)
    for name, tensor in tensors.items():
        writer.write(name, 0, memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    writer.close()
    (folder / "model.safetensors.index.json").write_bytes(weight_index(shards))
    return folder


def test_shards_and_order_do_not_matter(tmp_path: Path):
    whole = write(tmp_path / "whole", TENSORS)
    assert digest_of(write_sharded(tmp_path / "shards", TENSORS)) == digest_of(whole)


CHANGES = {
    "last bit": {"long": torch.cat([TENSORS["long"][:-1], -TENSORS["long"][-1:]])},
    "dtype": {"none": torch.empty(3, 0, dtype=torch.float16)},
    "shape": {"none": torch.empty(0, 3)},
    "two tensors swapped": {"scalar": torch.tensor(3.0), "other": torch.tensor(2.0)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_change_of_content_shows(tmp_path: Path, change: dict[str, torch.Tensor]):
    before = {**TENSORS, "other": torch.tensor(3.0)}
    same, other = write(tmp_path / "a", before), write(tmp_path / "b", {**before, **change})
    assert digest_of(same) != digest_of(other)


def test_a_flipped_bit_shows_and_is_the_named_tensors(tmp_path: Path):
    folder = write(tmp_path, TENSORS)
    with open_checkpoint(folder) as checkpoint:
        before = digest.digest_tensors(checkpoint, ["long", "scalar"])
        offset = checkpoint.entries["long"].offset + 2 * 65_536
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    with open_checkpoint(folder) as checkpoint:
        after = digest.digest_tensors(checkpoint, ["long", "scalar"])
    assert after["long"] != before["long"]
    assert after["scalar"] == before["scalar"]


def remembered(folder: Path) -> str:
    with open_checkpoint(folder) as checkpoint:
        return digest.cached_checkpoint_digest(checkpoint)


def test_the_cache_spares_reading_until_a_file_changes(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    folder = write(tmp_path / "model", TENSORS)
    first = remembered(folder)
    assert first == digest_of(folder)
    assert [path.parent for path in (tmp_path / "cache").rglob("*") if path.is_file()] == [
        tmp_path / "cache" / "digests"
    ]

    def fail(*_: object) -> None:
        raise AssertionError("the weights were read again")

    with monkeypatch.context() as patch:
        patch.setattr(digest, "digest_tensors", fail)
        assert remembered(folder) == first

    write(folder, {**TENSORS, "scalar": torch.tensor(7.0)})
    os.utime(folder / "model.safetensors", ns=(0, 1))  # whatever the clock's grain
    assert remembered(folder) == digest_of(folder) != first


@pytest.mark.parametrize("left", [b"", b"\0" * 32, b"\xff" * 32, b"ab12"])
def test_what_a_power_cut_left_of_the_cache_is_not_believed(
    tmp_path: Path, monkeypatch, left: bytes
):
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "cache"))
    folder = write(tmp_path / "model", TENSORS)
    first = remembered(folder)
    (file,) = (tmp_path / "cache" / "digests").iterdir()
    file.write_bytes(left)
    assert remembered(folder) == first == file.read_text()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch):
    folder = write(tmp_path / "model", TENSORS)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LEDMERGE_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="set LEDMERGE_CACHE"), open_checkpoint(folder) as found:
        digest.cached_checkpoint_digest(found)
