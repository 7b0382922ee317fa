"""A checkpoint of float8 weights, shown as the numbers they stand for, block by block."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ledmerge.checkpoint.checkpoint import TORCH_DTYPES, Checkpoint
from ledmerge.checkpoint.files import Files, Stamp
from ledmerge.checkpoint.header import ITEM_SIZES, TensorEntry
from ledmerge.ops.blocks import BLOCK

KEPT = 4
"""Scales that are kept in float32; blocks are read tensor after tensor."""


@dataclass(frozen=True)
class Scaled:
    """How a float8 tensor (..., rows, columns) is scaled: entry (i, j) by grid[i // block rows,
    j // block columns].

    Attributes:
        scale: name of the grid's tensor.
        grid: its shape, as (matrices, rows, columns); one matrix of scales may serve for all.
        block: (rows, columns) that one scale is of.
    """

    scale: str
    grid: tuple[int, int, int]
    block: tuple[int, int]


class Dequantized(Checkpoint):
    """A view: float8 tensors are read as float32, each entry times its scale, and scales are not
    shown. Bits do not depend on how a tensor is cut.

    Args:
        scaled: float8 tensor -> how it is scaled.
        hidden: tensors that are of no use without float8 ones.
        dtype: what a result made from this checkpoint stores them in.
    """

    def __init__(
        self, whole: Checkpoint, scaled: Mapping[str, Scaled], hidden: Iterable[str], dtype: str
    ):
        self._whole, self._scaled, self._dtype = whole, dict(scaled), dtype
        left_out = {*hidden, *(each.scale for each in scaled.values())}
        entries = []
        for name, entry in whole.entries.items():
            if name in scaled:
                entry = replace(entry, dtype="F32", nbytes=entry.numel * ITEM_SIZES["F32"])
            if name not in left_out:
                entries.append(entry)
        super().__init__(whole.folder, entries, whole.metadata)
        self._grid = lru_cache(KEPT)(self._read_grid)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_grid": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._grid = lru_cache(KEPT)(self._read_grid)

    def added_files(self) -> list[Path]:
        """See `Checkpoint.added_files`; scales may lie in files of their own."""
        scales = (self._whole.entries[each.scale].path for each in self._scaled.values())
        return [*dict.fromkeys(scales), *self._whole.added_files()]

    def twins(self, name: str) -> set[str]:
        """See `Checkpoint.twins`."""
        return self._whole.twins(name)

    def stamp(self, path: Path) -> Stamp:
        """See `Checkpoint.stamp`."""
        return self._whole.stamp(path)

    def unfetched(self, names: Iterable[str]) -> list[tuple[Files, str]]:
        """See `Checkpoint.unfetched`."""
        names = list(names)
        scales = [self._scaled[name].scale for name in names if name in self._scaled]
        return self._whole.unfetched([*names, *scales])

    def stored_dtype(self, name: str) -> str:
        """See `Checkpoint.stored_dtype`."""
        return self._dtype if name in self._scaled else self._whole.stored_dtype(name)

    def held(self, name: str) -> list[TensorEntry]:
        """See `Checkpoint.held`."""
        scaled = self._scaled.get(name)
        return self._whole.held(name) + (self._whole.held(scaled.scale) if scaled else [])

    def bytes_to_read(self, name: str) -> int:
        """See `Checkpoint.bytes_to_read`."""
        scale = self._scaled.get(name)
        added = self._whole.bytes_to_read(scale.scale) if scale else 0
        return self._whole.bytes_to_read(name) + added

    @property
    def working_memory(self) -> int:
        """See `Checkpoint.working_memory`: the scales that are kept."""
        sizes = [self._whole.entries[each.scale].numel for each in self._scaled.values()]
        return self._whole.working_memory + (KEPT + 1) * 4 * max(sizes, default=0)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """See `Checkpoint.read_into`."""
        if name not in self._scaled:
            self._whole.read_into(name, start, buffer)
            return
        values = np.frombuffer(buffer, np.float32)
        dtype = TORCH_DTYPES[self._whole.entries[name].dtype]
        for done in range(0, len(values), BLOCK):
            piece = values[done : done + BLOCK]
            raw = bytearray(len(piece))  # a byte an entry
            self._whole.read_into(name, start + done, memoryview(raw))
            torch.from_numpy(piece).copy_(torch.frombuffer(raw, dtype=dtype))
            self._scale_(name, start + done, piece)

    def close(self) -> None:
        """See `Checkpoint.close`."""
        self._whole.close()

    def _scale_(self, name: str, start: int, piece: np.ndarray) -> None:
        """Multiply the entries of a tensor from flat entry `start` on by their scales."""
        grid, (tall, wide) = self._grid(name), self._scaled[name].block
        num_rows, num_columns = (1, 1, *self.entries[name].shape)[-2:]
        first, last = start // num_columns, (start + len(piece) - 1) // num_columns
        rows = np.arange(first, last + 1)
        matrices = rows // num_rows if len(grid) > 1 else np.zeros_like(rows)
        scales = grid[matrices, rows % num_rows // tall]  # (rows, columns of the grid)
        if scales.shape[1] > 1:
            scales = np.repeat(scales, wide, axis=1)[:, :num_columns]
        else:
            scales = np.broadcast_to(scales, (len(rows), num_columns))
        skipped = start - first * num_columns
        piece *= scales.reshape(-1)[skipped : skipped + len(piece)]

    def _read_grid(self, name: str) -> np.ndarray:
        scaled = self._scaled[name]
        return self._whole.read(scaled.scale).numpy().reshape(scaled.grid)
