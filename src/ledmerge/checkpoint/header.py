"""Reads and checks the header of one safetensors file, without touching a weight.

Format: 8 bytes little-endian header size, a JSON object, then the tensors' bytes without gaps.
Source: https://github.com/huggingface/safetensors#format
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledmerge.errors import CheckpointError

ITEM_SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""Bytes per entry of every dtype we read, by its name in the file."""

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
"""What can be merged. Float8 weights carry scales of their own and are refused by the plan."""

MAX_HEADER = 100_000_000
"""The format's own limit; a larger claim is a damaged or hostile file."""

MAX_AXES, MAX_INTEGER = 64, 2**63
"""What torch can hold; beyond that, arithmetic on a hostile shape would take for ever."""


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor's bytes lie: `nbytes` bytes of `path` from `offset` (absolute)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int

    @property
    def numel(self) -> int:
        """Entries of the tensor."""
        return math.prod(self.shape)

    @property
    def item_size(self) -> int:
        """Bytes per entry."""
        return ITEM_SIZES[self.dtype]


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    entries: dict[str, TensorEntry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The checked header of `path`: every offset lies in the file, without overlap or gap.

    Raises:
        CheckpointError: the file is missing, truncated, damaged, or claims more than it holds.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            raw = file.read(header_size(path, file.read(8), size))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    return parse_header(path, raw, size)


def header_size(path: Path, start: bytes, size: int) -> int:
    """Bytes of the JSON object, from the first 8 of a file that has `size`.

    Raises:
        CheckpointError: the file is shorter, or longer than the format allows.
    """
    length = int.from_bytes(start, "little")
    if size == 0:
        raise CheckpointError(f"{path}: is empty (0 bytes); write it or fetch it again")
    if size < 8 or length > min(MAX_HEADER, size - 8):
        raise CheckpointError(
            f"{path}: the header claims {length:,} bytes but the file has {size:,}; "
            "it is truncated or not a safetensors file, fetch it again"
        )
    return length


def parse_header(path: Path, raw: bytes, size: int) -> Header:
    """The checked header of a file of `size` bytes, from its JSON object.

    Raises:
        CheckpointError: as `read_header`.
    """
    try:
        fields = json.loads(raw, object_pairs_hook=_unique_keys)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the header is not JSON ({error}); fetch it again"
        ) from error
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: the header is not a JSON object; fetch the file again")
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(
            f"{path}: '__metadata__' does not map names to strings; fetch the file again"
        )
    data_start = 8 + len(raw)
    entries = {name: _entry(path, name, field, data_start) for name, field in fields.items()}
    _check_layout(path, entries, data_start, size)
    return Header(entries, metadata)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands twice")
    return fields


def _entry(path: Path, name: str, field: Any, data_start: int) -> TensorEntry:
    """One tensor's entry, with its size checked against its shape and dtype."""
    try:
        dtype, shape, (begin, end) = field["dtype"], tuple(field["shape"]), field["data_offsets"]
        if not isinstance(dtype, str) or len(shape) > MAX_AXES:
            raise ValueError
        if not all(type(n) is int and 0 <= n < MAX_INTEGER for n in (*shape, begin, end)):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{path}: the header entry of '{name}' is damaged: {str(field)[:200]}; expected dtype, "
            "shape and data_offsets, fetch the file again"
        ) from None
    if dtype not in ITEM_SIZES:
        raise CheckpointError(
            f"{path}: '{name}' has dtype '{dtype}'; known are: {', '.join(ITEM_SIZES)}"
        )
    nbytes = math.prod(shape) * ITEM_SIZES[dtype]
    if end - begin != nbytes:
        raise CheckpointError(
            f"{path}: '{name}' of shape {shape} and dtype {dtype} needs {nbytes:,} bytes, its "
            f"offsets {begin:,}..{end:,} give {end - begin:,}; fetch the file again"
        )
    return TensorEntry(name, dtype, shape, path, data_start + begin, nbytes)


def _check_layout(path: Path, entries: dict[str, TensorEntry], data_start: int, size: int) -> None:
    """Every byte after the header belongs to exactly one tensor."""
    position, previous = data_start, "the header"
    for entry in sorted(entries.values(), key=lambda e: (e.offset, e.nbytes)):
        if entry.offset != position:
            word = "overlaps" if entry.offset < position else "leaves a gap after"
            raise CheckpointError(f"{path}: '{entry.name}' {word} {previous}; fetch the file again")
        position, previous = entry.offset + entry.nbytes, f"'{entry.name}'"
    if position != size:
        raise CheckpointError(
            f"{path}: the tensors need {position:,} bytes but the file has {size:,}; "
            f"it is {'truncated' if size < position else 'damaged'}, fetch it again"
        )
