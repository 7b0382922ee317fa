"""A folder of weights: which tensors it holds, and their bytes, block by block."""

import json
import os
import weakref
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import torch

from ledmerge.checkpoint.files import Files, Stamp
from ledmerge.checkpoint.header import ITEM_SIZES, TensorEntry
from ledmerge.errors import CheckpointError

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}

_PICKLED = {"model": "pytorch_model.bin", "adapter_model": "adapter_model.bin"}
_EXPECTED = {
    "model": ("weights", "a model folder"),
    "adapter_model": ("weights", "an adapter's folder"),
    "scores": ("scores", "a folder that `ledmerge locate` made"),
}
"""Stem -> what its files hold, and the folder they are in, for messages."""

GGUF = (
    "GGUF stores weights for llama.cpp, mostly quantized, under names of its own; merge the "
    "safetensors model it was made from, or one made of it by `ledmerge convert FILE.gguf OUT "
    "--dequantize`, and convert the result to GGUF afterwards"
)


class Checkpoint:
    """The tensors of one folder, in the order of its files.

    Reads are positional (`pread`), so threads may share one object; a pickled copy opens the files
    itself. Files that are elsewhere are fetched when the first of their tensors is read.
    """

    def __init__(
        self,
        folder: Path,
        entries: Iterable[TensorEntry],
        metadata: dict[str, str] | None = None,
        files: Files | None = None,
    ):
        self.folder = folder
        self._files = files or Files(folder)
        self.entries = {entry.name: entry for entry in entries}
        self.metadata = metadata or {}
        self.aliases: dict[str, str] = {}
        """Tensors that are another one's memory under a second name, as tied weights are in `.bin`
        files: this name -> the first."""
        self.noted: dict[str, str] = {}
        """Digests of tensors as they were written, where somebody noted them."""
        self._descriptors: dict[Path, int] = {}
        weakref.finalize(self, _close, self._descriptors)  # for whoever forgets `close`

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        weakref.finalize(self, _close, self._descriptors)

    def twins(self, name: str) -> set[str]:
        """The other names of a tensor's memory."""
        first = self.aliases.get(name, name)
        alike = {first, *(alias for alias, of in self.aliases.items() if of == first)}
        return alike - {name}

    def files(self) -> list[Path]:
        """Every file that decides the weights, once."""
        own = (entry.path for entry in self.entries.values())
        return list(dict.fromkeys([*own, *self.added_files()]))

    def added_files(self) -> list[Path]:
        """Those of them that no entry lies in."""
        return []

    def stamp(self, path: Path) -> Stamp:
        """Identifies one of `files()`, also while it is not fetched."""
        return self._files.stamp(path)

    def unfetched(self, names: Iterable[str]) -> list[tuple[Files, str]]:
        """The files (folder, name) that have to be fetched before these tensors can be read."""
        held = dict.fromkeys(self.entries[name].path.name for name in names)
        return [(self._files, file) for file in self._files.unfetched(held)]

    def stored_dtype(self, name: str) -> str:
        """The dtype that a result made from this checkpoint keeps for a tensor."""
        return self.entries[name].dtype

    def held(self, name: str) -> list[TensorEntry]:
        """What the files hold of a tensor, as it is named and stored there: the weight, then its
        scale or what is added to it.
        """
        return [self.entries[name]]

    def bytes_to_read(self, name: str) -> int:
        """Bytes read from the disk for a whole tensor."""
        return self.entries[name].nbytes

    @property
    def working_memory(self) -> int:
        """Bytes kept in memory while tensors are read, besides the reader's own buffers."""
        return 0

    def noted_digest(self, name: str) -> str | None:
        """What the digest of a tensor's bytes must be, if that is known."""
        return self.noted.get(name)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) with tensor `name` from its flat entry `start` on."""
        entry = self.entries[name]
        descriptor = self._descriptors.get(entry.path)
        if descriptor is None:
            self._files.fetch([entry.path.name])
            # Two threads may both open the file; setdefault keeps one, the other is closed.
            opened = os.open(entry.path, os.O_RDONLY)
            descriptor = self._descriptors.setdefault(entry.path, opened)
            if descriptor != opened:
                os.close(opened)
        offset = entry.offset + start * entry.item_size
        done = 0
        while done < len(buffer):
            count = os.preadv(descriptor, [buffer[done:]], offset + done)
            if count == 0:
                raise CheckpointError(
                    f"{entry.path}: '{name}' ends early; the file was cut short while it was read"
                )
            done += count

    def read(self, name: str) -> torch.Tensor:
        """A whole tensor, as float32."""
        entry = self.entries[name]
        tensor = torch.empty(entry.shape, dtype=TORCH_DTYPES[entry.dtype])
        self.read_into(name, 0, tensor.reshape(-1).view(torch.uint8).numpy().data)
        return tensor.float()

    def close(self) -> None:
        """Close the files; reading again opens them again."""
        _close(self._descriptors)

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _close(descriptors: dict[Path, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


class PickledCheckpoint(Checkpoint):
    """A folder of `.bin` files, read by torch's weights-only loader and memory-mapped, one at a
    time.

    No pickle opcode beyond tensors and plain containers is executed; anything else is refused.
    """

    def __init__(self, folder: Path, paths: Iterable[Path], files: Files | None = None):
        aliases: dict[str, str] = {}
        self._mapped: tuple[Path, dict[str, torch.Tensor]] | None = None
        self._lock = Lock()
        self.held_in: dict[str, list[str]] = {}
        """File -> the tensors in it."""
        entries = []
        for path in paths:
            self.held_in[path.name] = held = []
            first: dict[tuple[object, ...], str] = {}
            for name, tensor in _load_pickle(path).items():
                dtype = DTYPE_NAMES[tensor.dtype]
                nbytes = tensor.numel() * ITEM_SIZES[dtype]
                entries.append(TensorEntry(name, dtype, tuple(tensor.shape), path, 0, nbytes))
                held.append(name)
                place = (tensor.data_ptr(), dtype, tensor.shape, tensor.stride())
                if nbytes and first.setdefault(place, name) != name:
                    aliases[name] = first[place]
        super().__init__(folder, entries, files=files)
        self.aliases = aliases

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_mapped": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._lock = Lock()

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See `Checkpoint.read_into`."""
        entry = self.entries[name]
        with self._lock:
            if self._mapped is None or self._mapped[0] != entry.path:
                self._mapped = None  # before the next: two mappings count as memory in use
                self._mapped = entry.path, _load_pickle(entry.path)
            tensor = self._mapped[1][name]
        flat = tensor.detach().reshape(-1).view(torch.uint8)
        begin = start * entry.item_size
        buffer[:] = flat[begin : begin + len(buffer)].numpy().data

    def close(self) -> None:
        """See `Checkpoint.close`."""
        self._mapped = None


def _load_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a hostile file can make the loader stumble in any way
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path}: torch's weights-only loader refuses this file ({reason[:160]}); convert it "
            "to safetensors where you trust it"
        ) from error
    if not isinstance(state, dict) or not all(map(_is_plain, state.keys(), state.values())):
        raise CheckpointError(
            f"{path}: expected a plain mapping of names to dense tensors; convert it to safetensors"
        )
    return state


def _is_plain(name: object, tensor: object) -> bool:
    return (
        isinstance(name, str)
        and isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and tensor.dtype in DTYPE_NAMES
    )


def has_weights(files: Files, stem: str = "model") -> bool:
    """Whether a checkpoint of that stem lies in the folder, whole or not."""
    names = [f"{stem}.safetensors", *([_PICKLED[stem]] if stem in _PICKLED else [])]
    return any(files.has(f"{name}{end}") for name in names for end in ("", ".index.json"))


def open_checkpoint(folder: Path | Files, stem: str = "model") -> Checkpoint:
    """The checkpoint in a folder: `{stem}.safetensors`, its shards with an index, or `.bin` files.

    Only headers are read; `.bin` files have none, and are fetched.

    Raises:
        CheckpointError: nothing is there, files are missing or damaged, the index names a file
            outside the folder, or two checkpoints lie in one folder.
    """
    files = folder if isinstance(folder, Files) else Files(folder)
    what, wanted = _EXPECTED.get(stem, ("tensors", f"one with {stem}.safetensors"))
    if files.commit is None and not files.path.is_dir():
        raise CheckpointError(f"{files.path}: no such folder; expected {wanted}")
    single, index = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    if files.has(single) and files.has(index):
        raise CheckpointError(
            f"{files.path}: holds both {single} and {index}; remove the one that is stale"
        )
    if files.has(single):
        header = files.headers([single])[single]
        return Checkpoint(files.path, header.entries.values(), header.metadata, files)
    if files.has(index):
        return _open_shards(files, index)
    pickled = _PICKLED.get(stem, "pytorch_model.bin")
    if stem in _PICKLED and files.has(pickled):
        return _open_pickled(files, [pickled])
    if stem in _PICKLED and files.has(f"{pickled}.index.json"):
        return _open_pickled_shards(files, f"{pickled}.index.json")
    if gguf := files.matching(["*.gguf"]):
        raise CheckpointError(f"{files.path}: holds {gguf[0]} and no other weights; {GGUF}")
    names = f"{single}, {index} or {pickled}" if stem in _PICKLED else f"{single} or {index}"
    raise CheckpointError(f"{files.path}: no {what} found; expected {names}")


def _open_pickled(files: Files, names: Iterable[str]) -> PickledCheckpoint:
    names = list(names)
    files.fetch(names)
    return PickledCheckpoint(files.path, [files.path / name for name in names], files)


def _open_pickled_shards(files: Files, index: str) -> PickledCheckpoint:
    weight_map = _weight_map(files, index)
    checkpoint = _open_pickled(files, dict.fromkeys(weight_map.values()))
    # What the index does not list is loaded all the same, by transformers as well.
    held = {f: [n for n in names if n in weight_map] for f, names in checkpoint.held_in.items()}
    _check_placed(files.path / index, weight_map, held)
    return checkpoint


def _open_shards(files: Files, index: str) -> Checkpoint:
    weight_map = _weight_map(files, index)
    headers = files.headers(dict.fromkeys(weight_map.values()))
    held = {file: header.entries for file, header in headers.items()}
    _check_placed(files.path / index, weight_map, held)
    entries: dict[str, TensorEntry] = {}
    metadata: dict[str, str] = {}
    for header in headers.values():
        entries |= header.entries
        metadata |= header.metadata
    return Checkpoint(files.path, entries.values(), metadata, files)


def _check_placed(
    index: Path, weight_map: Mapping[str, str], held: Mapping[str, Collection[str]]
) -> None:
    """Raise CheckpointError where a tensor lies elsewhere than its index says.

    Args:
        held: file -> the tensors in it.
    """
    for name, file in weight_map.items():
        if name not in held[file]:
            raise CheckpointError(f"{index}: '{name}' is not in {file}; fetch the shard again")
    for file, names in held.items():
        for name in names:
            if weight_map.get(name) != file:
                raise CheckpointError(f"{index}: does not place '{name}' in {file}, but it is")


def _weight_map(files: Files, name: str) -> dict[str, str]:
    """Tensor name -> file, each directly inside the folder."""
    files.fetch([name])
    index = files.path / name
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        items = list(weight_map.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: not a shard index ({error}); fetch it again") from error
    if not items:
        raise CheckpointError(f"{index}: lists no tensor")
    for name, file in items:
        if not isinstance(file, str) or not _is_file_name(file):
            raise CheckpointError(
                f"{index}: '{name}' points to '{str(file)[:200]}', which is not a file inside the "
                "folder"
            )
    missing = sorted({file for _, file in items if not files.has(file)})
    if missing:
        raise CheckpointError(f"{files.path}: missing shards: {', '.join(missing)}; {files.mend}")
    return dict(items)


def _is_file_name(text: str) -> bool:
    """Whether the text can be the name of a file, and of nothing outside a folder."""
    is_possible = text.isprintable() and len(text.encode()) <= 255
    return is_possible and Path(text).name == text and text not in ("", ".", "..")
