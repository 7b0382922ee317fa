"""Damaged and hostile files, byte by byte: each is refused, with the file's name and a mend."""

import json
import os
from pathlib import Path

import pytest

from ledmerge.checkpoint.header import MAX_HEADER, read_header
from ledmerge.errors import CheckpointError

HUGE = "9" * 4000


def raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def field(begin: int, end: int, **changes: object) -> dict[str, object]:
    return {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end], **changes}


def changed(**changes: object) -> bytes:
    fields = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}
    return raw({"w": {k: v for k, v in fields.items() if v is not None}}, bytes(8))


ATTACKS = {
    "empty": (b"", "is empty (0 bytes); write it or fetch it again"),
    "seven bytes": (bytes(7), "truncated"),
    "claims more than the file": (raw({}, length=1000), "claims 1,000 bytes"),
    "claims 2^63 bytes": (raw({}, length=2**63), "claims"),
    "not JSON": (raw(b"{nope"), "not JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "not JSON"),
    "nested 200,000 deep": (raw(b"[" * 200_000), "not JSON"),
    "a list": (raw([]), "not a JSON object"),
    "null": (raw(None), "not a JSON object"),
    "a name twice": (
        raw(b'{"w": %b, "w": %b}' % ((json.dumps(field(0, 8)).encode(),) * 2), bytes(8)),
        "stands twice",
    ),
    "metadata with a number": (raw({"__metadata__": {"format": 1}}), "__metadata__"),
    "an entry that is a list": (raw({"w": [1, 2]}), "'w' is damaged"),
    "unknown dtype": (changed(dtype="F4"), "'w' has dtype 'F4'"),
    "a list as dtype": (changed(dtype=["F32"]), "'w'"),
    "no dtype": (changed(dtype=None), "'w' is damaged"),
    "no shape": (changed(shape=None), "'w' is damaged"),
    "negative shape": (changed(shape=[-2]), "'w' is damaged"),
    "fraction in the shape": (changed(shape=[2.0]), "'w' is damaged"),
    "truth value in the shape": (changed(shape=[2, True]), "'w' is damaged"),
    "text as shape": (changed(shape="2"), "'w' is damaged"),
    "shape of 4,000 digits": (
        raw(
            b'{"w": {"dtype": "F32", "shape": [%b, %b], "data_offsets": [0, 8]}}'
            % (HUGE.encode(), HUGE.encode()),
            bytes(8),
        ),
        "'w' is damaged",
    ),
    "shape of 100,000 axes": (changed(shape=[2] * 100_000), "'w' is damaged"),
    "negative offset": (changed(data_offsets=[-8, 0]), "'w' is damaged"),
    "three offsets": (changed(data_offsets=[0, 4, 8]), "'w' is damaged"),
    "offsets backwards": (changed(data_offsets=[8, 0]), "needs 8 bytes"),
    "size against shape": (changed(shape=[3]), "needs 12 bytes"),
    "overlap": (raw({"a": field(0, 8), "b": field(4, 12)}, bytes(12)), "'b' overlaps 'a'"),
    "the same bytes twice": (raw({"a": field(0, 8), "b": field(0, 8)}, bytes(8)), "overlaps"),
    "gap": (raw({"a": field(0, 4), "b": field(8, 12)}, bytes(12)), "leaves a gap after 'a'"),
    "gap at the front": (raw({"a": field(4, 8)}, bytes(8)), "leaves a gap after the header"),
    "trailing bytes": (raw({"a": field(0, 8)}, bytes(9)), "damaged"),
    "cut short": (raw({"a": field(0, 8)}, bytes(7)), "truncated"),
    "data of another file": (raw({"a": field(2**40, 2**40 + 8)}, bytes(8)), "gap"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_damaged_file_is_refused_by_name_with_a_mend(tmp_path: Path, attack: str):
    content, said = ATTACKS[attack]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert said in message
    assert "fetch" in message or "known are" in message
    assert len(message) < 1000


def test_a_header_beyond_the_formats_limit_is_not_even_read(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw(b"", length=MAX_HEADER + 1))
    os.truncate(path, 8 + MAX_HEADER + 1)  # sparse: takes no room
    with pytest.raises(CheckpointError, match="claims 100,000,001 bytes"):
        read_header(path)


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir], ids=["missing", "a folder"])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, make):
    path = tmp_path / "model.safetensors"
    make(path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        read_header(path)


def test_entries_say_where_their_bytes_lie(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    fields = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [4, 16]},
        "none": {"dtype": "F32", "shape": [0, 7], "data_offsets": [4, 4]},
        "scalar": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
    }
    content = raw(fields, bytes(range(16)))
    path.write_bytes(content)
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    shapes = {name: (e.shape, e.numel, e.nbytes) for name, e in header.entries.items()}
    assert shapes == {"b": ((2, 3), 6, 12), "none": ((0, 7), 0, 0), "scalar": ((), 1, 4)}
    first = header.entries["scalar"].offset
    assert content[first : first + 4] == bytes(range(4))
