"""Where every tensor of a new checkpoint will lie, and the empty files to write them into."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledmerge.checkpoint.flush import begin_flush
from ledmerge.checkpoint.header import ITEM_SIZES, TensorEntry
from ledmerge.errors import OutputError

FLUSHED = 32_000_000
"""Bytes after which they are on their way to the disk."""


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Entries of the tensor."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.numel * ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class Shard:
    """One file: its header as bytes, and the tensors behind it."""

    path: Path
    header: bytes
    entries: tuple[TensorEntry, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(entry.nbytes for entry in self.entries)


WEIGHTS = (
    "model.safetensors",
    "model-?????-of-?????.safetensors",
    "model.safetensors.index.json",
)
"""Patterns of the files that a model's weights may lie in, whatever the size of the shards."""


def lay_out(
    folder: Path,
    tensors: Iterable[NewTensor],
    shard_size: int,
    metadata: dict[str, str],
    stem: str = "model",
) -> list[Shard]:
    """Shards of at most `shard_size` bytes of tensors (or one tensor), in the order given.

    They are named `{stem}.safetensors`, or `{stem}-00001-of-0000N.safetensors`.
    """
    groups: list[list[NewTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.nbytes > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    count = len(groups)
    return [
        _shard(folder / _file_name(stem, number, count), group, metadata)
        for number, group in enumerate(groups, start=1)
    ]


def _file_name(stem: str, number: int, count: int) -> str:
    part = "" if count == 1 else f"-{number:05}-of-{count:05}"
    return f"{stem}{part}.safetensors"


def _shard(path: Path, tensors: list[NewTensor], metadata: dict[str, str]) -> Shard:
    # Wide dtypes first keeps every tensor aligned to its own item size.
    tensors = sorted(tensors, key=lambda tensor: -ITEM_SIZES[tensor.dtype])
    fields: dict[str, object] = {"__metadata__": metadata}
    offsets = []
    position = 0
    for tensor in tensors:
        end = position + tensor.nbytes
        fields[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        offsets.append(position)
        position = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    entries = tuple(
        TensorEntry(t.name, t.dtype, t.shape, path, len(header) + offset, t.nbytes)
        for t, offset in zip(tensors, offsets, strict=True)
    )
    return Shard(path, header, entries)


def weight_index(shards: list[Shard]) -> bytes:
    """The text of `{stem}.safetensors.index.json`."""
    weight_map = {entry.name: shard.path.name for shard in shards for entry in shard.entries}
    total = sum(entry.nbytes for shard in shards for entry in shard.entries)
    fields = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(fields, indent=2).encode() + b"\n"


class ShardWriter:
    """Writes blocks into their final places, in any order, from several threads.

    Opening reserves the whole space of every shard, so a full disk shows before the work.
    Shards that already have their size (a resumed run) are kept as they are. A pickled copy opens
    the same files for writing and reserves nothing.

    Raises:
        OutputError: the disk is too small, or a file cannot be written.
    """

    def __init__(self, shards: list[Shard]):
        self._unflushed = 0
        self.entries = {entry.name: entry for shard in shards for entry in shard.entries}
        self._descriptors: dict[Path, int] = {}
        try:
            for shard in shards:
                self._descriptors[shard.path] = _reserve(shard)
        except OSError as error:
            self.close()
            raise OutputError(f"{shard.path}: cannot be written ({error.strerror})") from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def write(self, name: str, start: int, data: memoryview) -> None:
        """Put `data` (bytes) at the tensor's flat entry `start`."""
        entry = self.entries[name]
        offset = entry.offset + start * entry.item_size
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self._open(entry.path), data[done:], offset + done)
            except OSError as error:
                raise OutputError(f"{entry.path}: cannot be written ({error.strerror})") from error
        self._unflushed += len(data)
        if self._unflushed >= FLUSHED:
            begin_flush(self._open(entry.path))
            self._unflushed = 0

    def settle(self) -> None:
        """Wait until what was written is on the disk, and let go of the files until the next write.

        Other machines see it then, and it outlives this one.
        """
        for path, descriptor in self._descriptors.items():
            try:
                os.fsync(descriptor)
            except OSError as error:
                raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
        self.close()

    def _open(self, path: Path) -> int:
        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_WRONLY)
        return self._descriptors[path]

    def close(self) -> None:
        """Close the files; what is written stays."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def _reserve(shard: Shard) -> int:
    # Not for reading too: a network file system would then write whole pages that it has read,
    # over what other machines have put there in the meantime.
    descriptor = os.open(shard.path, os.O_WRONLY | os.O_CREAT, 0o666)
    if os.fstat(descriptor).st_size != shard.nbytes:
        os.truncate(descriptor, 0)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, shard.nbytes)
            else:  # then a full disk shows as it fills
                os.truncate(descriptor, shard.nbytes)
        except OSError:
            os.close(descriptor)
            raise
    os.pwrite(descriptor, shard.header, 0)
    return descriptor
